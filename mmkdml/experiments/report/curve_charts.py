"""Learning curves of large suites, as small charts that are fast to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from markupsafe import Markup

from mmkdml.experiments.report.figures import validation_keys
from mmkdml.experiments.report.labels import metric_label
from mmkdml.html import Line, line_chart
from mmkdml.metric_info import metric_info
from mmkdml.statistics.records import DONE, RunRecord, SuiteRecord

_LOSS = 'loss'
_LINES = 20  # in a chart


@dataclass(frozen=True)
class Chart:
    """Curves of some runs.

    Attributes:
        group: Variant of the suite, with the numbers of the runs if it has several charts.
        title: Metric or loss that is drawn.
        svg: The chart.
        lines: Its lines, for the legend.
    """

    group: str
    title: str
    svg: Markup
    lines: Sequence[Line]


def chart_curves(
    record: SuiteRecord, by_name: Mapping[str, Sequence[RunRecord]]
) -> Iterator[Chart]:
    """Draw validation metrics and training loss, means over seeds, by variant of the suite."""
    found: dict[str, tuple[str, ...]] = {}
    for keys in validation_keys(record):
        name = keys[0].partition('/')[2]
        info = metric_info(name)
        found[f'{info.label if info else metric_label(name)}, validation'] = keys
    found['Training loss'] = (_LOSS,)
    variants: dict[str, list[str]] = {}
    for name in by_name:
        variants.setdefault(name.rpartition('/')[0], []).append(name)
    for variant, names in variants.items():
        for start in range(0, len(names), _LINES):
            part = names[start : start + _LINES]
            label = variant or 'Runs'
            group = label if len(names) <= _LINES else f'{label}, {part[0]} to {part[-1]}'
            means = {name: _means(by_name[name], list(found.values())) for name in part}
            for place, title in enumerate(found):
                lines = [
                    Line(name.rpartition('/')[2], means[name][place], style)
                    for style, name in enumerate(part)
                    if means[name][place]
                ]
                if lines:
                    yield Chart(group, title, line_chart(lines, 'epoch', title), lines)


def _means(
    runs: Sequence[RunRecord], all_keys: Sequence[Sequence[str]]
) -> list[list[tuple[float, float]]]:
    """Return points of the means over the finished seeds; NaN where a seed has no value."""
    curves = []
    for curve in (run.curves for run in runs if run.state == DONE):
        codes, names = pd.factorize(curve['key'])
        curves.append((codes, list(names), curve['epoch'].to_numpy(), curve['value'].to_numpy()))
    found = []
    for keys in all_keys:
        seeds: list[dict[float, float]] = []
        for codes, names, all_epochs, values in curves:
            own = np.isin(codes, [names.index(key) for key in keys if key in names])
            epochs, places = np.unique(all_epochs[own], return_inverse=True)
            sums = np.bincount(places, values[own].astype(float), len(epochs))
            means = sums / np.bincount(places, minlength=len(epochs))
            if len(epochs):
                seeds.append(dict(zip(epochs.tolist(), means.tolist(), strict=True)))
        epochs_of_all = sorted(set().union(*seeds)) if seeds else []
        found.append(
            [
                (epoch, float(np.mean([seed.get(epoch, np.nan) for seed in seeds])))
                for epoch in epochs_of_all
            ]
        )
    return found
