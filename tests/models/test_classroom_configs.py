import pytest

from mmkdml.models.classroom_configs import (
    frozen_checkpoint_option,
    frozen_checkpoints,
    member_configs,
    replace_frozen_checkpoints,
    set_member_config,
)

BY_NAME = dict(members=dict(tutor='a', pupil='b'), frozen=dict(tutor='x.pth'))
PAPER = dict(mode='kd_off', teacher='a', students=['b', 'c'], teacher_checkpoint='x.pth')
PAPER_MEMBERS = dict(teacher='a', student_1='b', student_2='c')


@pytest.mark.parametrize(
    ('model', 'members', 'frozen', 'option'),
    [
        (BY_NAME, BY_NAME['members'], dict(tutor='x.pth'), 'model.frozen.tutor'),
        (PAPER, PAPER_MEMBERS, dict(teacher='x.pth'), 'model.teacher_checkpoint'),
        (
            dict(PAPER, teacher_checkpoint=None),
            PAPER_MEMBERS,
            dict(teacher=None),
            'model.teacher_checkpoint',
        ),
        (
            dict(mode='ml', students=['b', 'c']),
            dict(student_1='b', student_2='c'),
            {},
            'model.teacher_checkpoint',
        ),
        (dict(type='ImageClassifier'), {}, {}, 'model.teacher_checkpoint'),
        # Invalid settings are left to the constructor of the model.
        (dict(members=3, students='x', frozen=3), {}, {}, 'model.frozen.tutor'),
    ],
)
def test_members_and_frozen_checkpoints(model, members, frozen, option):
    assert member_configs(model) == members
    assert frozen_checkpoints(model) == frozen
    name = 'tutor' if 'frozen' in option else 'teacher'
    assert frozen_checkpoint_option(model, name) == option


@pytest.mark.parametrize(('model', 'name'), [(BY_NAME, 'tutor'), (PAPER, 'teacher')])
def test_member_configs_and_checkpoints_are_replaced(model, name):
    changed = dict(model, members=dict(BY_NAME['members'])) if 'members' in model else dict(model)
    set_member_config(changed, name, 'new')
    assert member_configs(changed) == {**member_configs(model), name: 'new'}
    replace_frozen_checkpoints(changed, lambda path: f'other/{path}')
    assert frozen_checkpoints(changed) == {name: 'other/x.pth'}
    assert BY_NAME['frozen'] == dict(tutor='x.pth')


def test_missing_checkpoints_are_not_replaced():
    for model in (dict(PAPER, teacher_checkpoint=None), dict(BY_NAME, frozen=dict(tutor=None))):
        before = frozen_checkpoints(model)
        replace_frozen_checkpoints(model, lambda path: 'file')
        assert frozen_checkpoints(model) == before
