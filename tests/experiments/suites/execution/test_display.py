import math

import pandas as pd
import pytest

from mmkdml.experiments.suites.execution.display import SuiteDisplay, test_score
from mmkdml.statistics.records import Measurement

test_score.__test__ = False  # not a test
COLUMNS = ['member', 'id', 'group', 'label', 'tp', 'fp', 'fn']


def measured(*rows):
    return Measurement({}, pd.DataFrame(rows, columns=COLUMNS))


def test_score_is_that_of_the_ensemble_or_the_only_network():
    rows = [('student_1', '1', 'a', 1, 9, 1, 0), ('ensemble', '1', 'a', 1, 3, 1, 1)]
    assert test_score(measured(*rows), 'IoU') == pytest.approx(60)
    assert test_score(measured(('model', '1', 'a', 1, 1, 1, 2)), 'IoU') == pytest.approx(25)
    # Over the data set, not the mean of images.
    both = [('model', '1', 'a', 1, 1, 0, 0), ('model', '2', 'b', 1, 1, 2, 0)]
    assert test_score(measured(*both), 'IoU') == pytest.approx(50)
    assert math.isnan(test_score(measured(), 'IoU'))


def test_score_of_boxes():
    columns = ['member', 'id', 'group', 'label', 'rank', 'score', 'hits', 'ignored', 'boxes']
    rows = [('ensemble', '1', 'a', 0, 0, 0.0, 0, 0, 1), ('ensemble', '1', 'a', 0, 1, 0.5, 3, 0, 0)]
    found = Measurement({}, pd.DataFrame(rows, columns=columns))
    assert [test_score(found, name) for name in ('AP', 'AP50')] == pytest.approx([20, 100])
    assert math.isnan(test_score(found, 'IoU'))
    assert math.isnan(test_score(measured(('model', '1', 'a', 1, 1, 1, 2)), 'AP'))


def test_a_line_per_run_names_the_best_so_far(make_suite):
    suite, store = make_suite({'one': ('', {}), 'two': ('', {})}, seeds=(0, 1))
    lines = []
    with SuiteDisplay(suite, store, lines.append) as display:
        for key, pixels in (('one/seed_0', 5), ('one/seed_1', 4), ('two/seed_0', 6)):
            display.finished(key, measured(('model', '1', 'a', 1, pixels, 1, 9 - pixels)), '3 s')
        display.finished('two/seed_1', measured(), '3 s')
    assert '4 runs of 2 configs' in lines[0]
    assert str(suite.work_dir) in lines[0]
    assert ['best so far' in line for line in lines[1:]] == [True, False, True, False]
    assert [line.split()[:3] for line in lines[1:4]] == [
        ['one/seed_0', 'IoU', '50.00,'],
        ['one/seed_1', 'IoU', '40.00;'],
        ['two/seed_0', 'IoU', '60.00,'],
    ]
    assert 'IoU undefined' in lines[4]


def test_remaining_time_is_estimated_again_when_runs_end(make_suite, monkeypatch):
    suite, store = make_suite({'one': ('', {})}, seeds=(0, 1, 2))
    display = SuiteDisplay(suite, store, print)
    groups, calls = store.groups, []
    monkeypatch.setattr(store, 'groups', lambda **options: calls.append(1) or groups(**options))
    first, second, _ = store.states()
    store.claim(first, 'w', 0.0)
    display.started()
    assert display._bar.text() == '0 of 3 runs'
    store.finish(first, 'elsewhere', b'', 60.0)  # not its owner: without effect
    display.started()
    assert len(calls) == 1
    store.finish(first, 'w', b'', 60.0)
    display.started()
    assert display._bar.text() == '1 of 3 runs, about 2 min 0 s left'
    for run in store.states()[1:]:  # two workers
        store.claim(run, 'w', 0.0)
    display.started()
    assert display._bar.text() == '1 of 3 runs, about 1 min 0 s left'
    assert len(calls) == 2
    store.fail(second, 'w', 'no GPU')
    display.started()
    assert len(calls) == 3
