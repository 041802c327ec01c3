from pathlib import Path

import pytest
from mmengine.config import Config

from benchmarks import students
from benchmarks.students import StudentCost, format_students, measure_students
from mmkdml.inspection.config import inspect_config

CONFIGS = Path(__file__).parents[2] / 'configs'


def demo(mode='kdml'):
    config = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo_slices.py')
    config.model.update(mode=mode, input_size=(32, 32))
    if mode == 'kd_off':
        config.model.weights.gamma = None
    return config


def test_costs_have_both_references(monkeypatch):
    seconds = {'teacher': 5.0, 'copy_1': 2.0, '1': 7.5, '2': 9.0, '3': 12.0}
    calls = {}

    def median(steps, rounds):
        calls.update(steps=list(steps), rounds=rounds)
        return seconds

    monkeypatch.setattr(students, 'median_seconds', median)
    costs = measure_students(demo(), batch_size=2, rounds=4, most=3)
    assert calls == dict(steps=list(seconds), rounds=4)
    assert costs == {
        1: StudentCost(7.5, 7.0, 7.5),
        2: StudentCost(9.0, 9.0, 10.0),
        3: StudentCost(12.0, 11.0, 12.5),
    }


def test_format_students(cells_of):
    table = format_students({1: StudentCost(3.0, 2.0, 3.0), 2: StudentCost(4.0, 5.0, 3.2)})
    assert cells_of(table)[1:] == [
        ['1', '3.000', '2.000', '1.500', '3.000', '1.000'],
        ['2', '4.000', '5.000', '0.800', '3.200', '1.250'],
    ]


@pytest.mark.parametrize(
    ('mode', 'taught', 'peers'), [('kdml', 'features', True), ('kd_off', 'predictions', False)]
)
def test_students_have_the_transfers_of_the_first_one(mode, taught, peers):
    inspection = inspect_config(demo(mode))
    room = students._with_students(inspection, 3)
    copies = ['copy_1', 'copy_2', 'copy_3']
    assert list(room.members) == ['teacher', *copies]
    assert room.members['teacher'] is inspection.members['teacher']
    assert room.distiller.frozen_names == inspection.distiller.frozen_names
    assert room.distiller.student_names == tuple(copies)
    rows = {
        (row.source, row.learner, row.knowledge, row.weight) for row in room.distiller.transfers
    }
    expected = {('teacher', name, taught, 0.3) for name in copies}
    if peers:
        expected |= {
            (source, name, 'predictions', 0.3)
            for name in copies
            for source in copies
            if source != name
        }
    assert rows == expected
    assert len(room.distiller.transfers) == len(expected)
    weights = room.distiller.supervised_weights
    assert {weights[name] for name in copies} == {0.4}
    assert weights.get('teacher') == (1.0 if peers else None)
    sizes = {sum(p.numel() for p in room.members[name].parameters()) for name in copies}
    assert sizes == {sum(p.numel() for p in inspection.members['student_1'].parameters())}


def test_frozen_teacher_is_measured():
    costs = measure_students(demo('kd_off'), batch_size=2, rounds=1, most=1)
    (cost,) = costs.values()
    assert min(cost.seconds, cost.members) > 0
    assert cost.linear == pytest.approx(cost.seconds)


def test_baseline_and_numbers_below_one_raise():
    with pytest.raises(ValueError, match='most: expected at least 1 student, got 0'):
        measure_students(demo(), batch_size=2, rounds=1, most=0)
    with pytest.raises(ValueError, match='batch_size: expected at least 1, got 0'):
        measure_students(demo(), batch_size=0, rounds=1)
    baseline = Config.fromfile(CONFIGS / 'study' / 'ham64_student.py')
    with pytest.raises(TypeError, match='got a single network in this config'):
        measure_students(baseline, batch_size=2, rounds=1)
