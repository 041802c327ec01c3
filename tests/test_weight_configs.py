import pytest

from mmkdml.models.weighting import LinearWeight
from mmkdml.weight_configs import checked_schedule, format_schedule, schedules_by_student, type_name

LINEAR = dict(type='LinearWeight', start_factor=0, end=5)
STEPS = dict(type='MultiStepWeight', milestones=[8], gamma=0.0)


def test_one_schedule_several_or_none():
    assert checked_schedule('w', None) == ()
    assert checked_schedule('w', LINEAR) == (LINEAR,)
    assert checked_schedule('w', [LINEAR, STEPS]) == (LINEAR, STEPS)


@pytest.mark.parametrize('bad', [5, 'LinearWeight', [5], dict(end=5), [LINEAR, dict(end=5)]])
def test_schedules_without_a_type_raise(bad):
    with pytest.raises(ValueError, match='The weight .*type=') as error:
        checked_schedule('The weight', bad)
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize(
    ('key', 'value'),
    [('end', -1), ('eta_min', -0.1), ('gamma', float('nan')), ('milestones', [3, -4])],
)
def test_negative_numbers_raise(key, value):
    with pytest.raises(ValueError, match=f'LinearWeight.*{key}.*at least 0'):
        checked_schedule('w', {**LINEAR, key: value})


def test_schedules_of_students():
    both = schedules_by_student('kdml', dict(beta=LINEAR, gamma=dict(student_2=[LINEAR, STEPS])))
    assert both == dict(
        beta=dict(student_1=LINEAR, student_2=LINEAR), gamma=dict(student_2=[LINEAR, STEPS])
    )
    assert schedules_by_student('ml', None) == {}


@pytest.mark.parametrize(
    ('mode', 'schedules', 'fact'),
    [
        ('kdml', dict(alpha=LINEAR), "beta, gamma.*'alpha'"),
        ('ml', dict(beta=LINEAR), r"\(gamma\); got 'beta'"),
        ('kd_off', dict(beta=dict(student_3=LINEAR)), 'student_1 and student_2.*student_3'),
        ('kdml', [LINEAR], 'must be a dict'),
    ],
)
def test_invalid_schedules_of_students_raise(mode, schedules, fact):
    with pytest.raises(ValueError, match=fact):
        schedules_by_student(mode, schedules)


def test_format():
    text = format_schedule([LINEAR, dict(STEPS, type=LinearWeight)])
    assert text == ('LinearWeight(start_factor=0, end=5) * LinearWeight(milestones=[8], gamma=0.0)')
    assert type_name(LINEAR) == 'LinearWeight'
