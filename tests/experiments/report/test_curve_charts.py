import numpy as np
import pandas as pd

from mmkdml.experiments.report.curve_charts import chart_curves
from mmkdml.experiments.report.figures import summarize_curves
from mmkdml.statistics.records import RunRecord, SuiteRecord


def run(name, seed, epochs=3):
    rng = np.random.default_rng(seed)
    rows = [
        (epoch, key, rng.random())
        for epoch in range(1, epochs + 1)
        for key in ('loss', 'ensemble/foreground/IoU')
    ]
    curves = pd.DataFrame(rows, columns=['epoch', 'key', 'value'])
    return RunRecord(name, seed, 'ml', 'v1', 'done', curves=curves)


def test_charts_have_the_means_of_the_figures():
    """The second seed of b lacks the last epoch, so the mean is undefined there."""
    runs = [run('v/a', 0), run('v/a', 1), run('v/b', 2), run('v/b', 3, 2), run('w/c', 4)]
    by_name = {}
    for one in runs:
        by_name.setdefault(one.name, []).append(one)
    charts = list(chart_curves(SuiteRecord('s', 't', ('IoU',), (), runs), by_name))
    assert [chart.group for chart in charts] == ['v', 'v', 'w', 'w']
    for chart in charts:
        key = 'loss' if 'loss' in chart.title else 'ensemble/foreground/IoU'
        for line in chart.lines:
            expected = summarize_curves(by_name[f'{chart.group}/{line.name}'], [key])['mean']
            np.testing.assert_allclose(line.points, list(expected.items()))
