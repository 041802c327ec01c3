import pytest

from mmkdml.experiments.report.auxiliary_metrics import AUXILIARY_METRICS
from mmkdml.experiments.report.labels import member_label, metric_label, mode_label
from mmkdml.modes import MODES
from mmkdml.statistics.measures import MEASURES
from mmkdml.statistics.records import BASELINE, COMPARISON


def test_all_metrics_and_modes_have_readable_names():
    keys = [*MEASURES, *(metric.key for metric in AUXILIARY_METRICS)]
    names = [metric_label(key) for key in keys]
    assert len(set(names)) == len(keys)
    assert not any(character in ''.join(names) for character in '/_')
    modes = [*MODES, BASELINE, COMPARISON]
    assert len({mode_label(mode) for mode in modes} - set(modes)) == len(modes)


def test_unknown_metrics_are_made_readable():
    assert metric_label('fidelity/IoU') == "IoU with the teacher's masks"
    assert metric_label('boundary/mean_distance') == 'boundary: mean distance'


@pytest.mark.parametrize(
    ('member', 'label'), [('student_2', 'Student 2'), ('student_3', 'Student 3')]
)
def test_members(member, label):
    assert member_label(member) == label
