import math

import pytest

from mmkdml.apis.summary.history import read_history
from mmkdml.apis.summary.measures import (
    best_validation,
    best_value,
    class_of,
    group_of,
    is_less_better,
    main_measure,
    title_of,
)


@pytest.mark.parametrize(
    ('measure', 'title'),
    [
        ('foreground/IoU', 'IoU (%)'),
        ('foreground/case_F1', 'F1, mean of cases (%)'),
        ('accuracy/top1', 'Accuracy (%)'),
        ('fidelity/KL', 'KL divergence from the teacher (nats)'),
        ('calibration/ECE', 'Expected calibration error (fraction)'),
        ('own/thing', 'thing'),
    ],
)
def test_titles_have_units(measure, title):
    assert title_of(measure) == title


def test_groups_and_classes():
    assert group_of('fidelity/IoU') == 'fidelity'
    assert group_of('foreground/IoU') == ''
    assert class_of('foreground/IoU_large_edema') == ('IoU', 'large_edema')
    assert class_of('per_class/sensitivity_mel') == ('sensitivity', 'mel')
    assert not any(map(class_of, ['foreground/IoU', 'foreground/case_IoU', 'calibration/ECE_near']))


def test_best_values():
    points = [(1, 3.0), (2, math.nan), (3, 5.0), (4, 5.0)]
    assert best_value(points, 'foreground/IoU') == (3, 5)
    assert best_value(points, 'calibration/ECE') == (1, 3)
    assert best_value([(1, math.nan)], 'x') is None
    assert is_less_better('fidelity/KL')


def test_main_measure_selects_the_best_validation(write_run):
    history = read_history(write_run())
    assert main_measure(history) == 'foreground/IoU'
    assert best_validation(history, 'foreground/IoU').epoch == 3
    less = read_history(write_run('less', measure='calibration/ECE'))
    assert best_validation(less, main_measure(less)).epoch == 1
    none = read_history(write_run('none', validate=False))
    assert (main_measure(none), best_validation(none, None)) == (None, None)
