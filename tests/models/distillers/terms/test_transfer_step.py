"""Idle transfers: what they compute, their gradients, and weights that change."""

import copy

import pytest
import torch

from mmkdml.models import DiversifiedKDMLDistiller, KnowledgeDistiller, Transfer
from mmkdml.models.distillers.teacher_cache import TeacherCache
from mmkdml.models.distillers.terms.transfer_step import TransferStep

WARM_UP = dict(type='LinearWeight', start_factor=0.0, end=5)
FEATURES, PREDICTIONS = (
    f'student.loss_from_teacher.{kind}' for kind in ('features', 'predictions')
)


def classroom(tiny, schedule=WARM_UP, frozen=True, tap=None, student=None, **settings):
    """Teacher, projector and student; the predictions' weight does not change."""
    torch.manual_seed(0)
    weight = dict(base=0.5, schedule=schedule) if schedule else 0.5
    return KnowledgeDistiller(
        members=dict(
            teacher=tiny.classifier(width=6, block=32), student=student or tiny.classifier()
        ),
        transfers=[
            Transfer(
                'teacher',
                'student',
                'features',
                weight,
                projector=dict(type='ConvProjector'),
                learner_tap=tap,
            ),
            *settings.pop('more', [Transfer('teacher', 'student', 'predictions', 0.3)]),
        ],
        frozen=dict(teacher=None) if frozen else None,
        input_size=tiny.size,
        **settings,
    )


def set_weights(distiller, weight):
    for term in distiller.transfer_terms:
        if term.transfer.schedule:
            term.set_weight(weight)
    return distiller


def step(distiller, tiny):
    distiller.zero_grad()
    losses = distiller(tiny.images(), tiny.class_samples(), mode='loss')
    tiny.optimized(losses).backward()
    gradients = {name: x.grad for name, x in distiller.named_parameters()}
    return losses, gradients


def counted(module, counts, name):
    module.register_forward_hook(lambda *_: counts.append(name))


def test_scheduled_weight_equals_a_constant_one(tiny):
    losses, gradients = step(set_weights(classroom(tiny), 0.25), tiny)
    constant = classroom(tiny, schedule=None)
    expected, its = step(constant, tiny)
    assert losses.pop('student.weight_from_teacher.features').item() == 0.25
    assert list(losses) == list(expected)
    assert losses[FEATURES].item() == pytest.approx(expected[FEATURES].item() / 2)
    assert torch.equal(losses[PREDICTIONS], expected[PREDICTIONS])
    projector = 'transfer_modules.1.'
    for name, gradient in gradients.items():
        if name.startswith(projector):
            torch.testing.assert_close(gradient, its[name] / 2)


def test_idle_transfer_computes_nothing(tiny):
    distiller, counts = set_weights(classroom(tiny, more=[]), 0.0), []
    (term,) = distiller.transfer_terms
    modules = dict(loss=term.loss, projector=term.projector, **distiller.named_members())
    for name, module in modules.items():
        counted(module.backbone if name in distiller.member_names else module, counts, name)
    losses, _ = step(distiller, tiny)
    assert counts == ['student']
    assert losses[FEATURES].item() == 0
    step(set_weights(distiller, 0.1), tiny)
    assert counts == ['student', 'teacher', 'student', 'projector', 'loss']


def test_teacher_runs_for_other_transfers_and_if_it_is_trained(tiny):
    for distiller in (classroom(tiny), classroom(tiny, frozen=False, more=[])):
        counts = []
        counted(distiller.named_members()['teacher'].backbone, counts, 'teacher')
        step(set_weights(distiller, 0.0), tiny)
        assert counts == ['teacher']


@pytest.mark.parametrize('tap', [None, 'backbone.layer4'])
def test_gradients_equal_those_of_a_loss_times_zero(tiny, tap):
    """With the tap, only the transfer reaches the last stage of the student."""
    student = tiny.classifier()
    if tap:
        student['backbone']['out_indices'] = (2,)
        student['head']['in_channels'] = 16
    room = [classroom(tiny, tap=tap, student=copy.deepcopy(student)) for _ in range(2)]
    _, gradients = step(set_weights(room[0], 0.0), tiny)
    for term in room[1].transfer_terms:
        if term.transfer.schedule:
            term.set_weight(1.0)
            term.weight.zero_()
    _, expected = step(room[1], tiny)
    assert [name for name, gradient in gradients.items() if gradient is None] == []
    for name, gradient in gradients.items():
        assert torch.equal(gradient, expected[name]), name
    last = gradients['members.student.backbone.layer4.1.conv2.weight']
    assert (last.abs().sum() == 0) == bool(tap)


def test_weights_of_infinity_do_not_reach_an_idle_loss(tiny):
    distiller = set_weights(classroom(tiny), 0.0)
    with torch.no_grad():
        distiller.transfer_terms[0].projector.block.conv.weight.fill_(float('inf'))
    losses, gradients = step(distiller, tiny)
    assert losses[FEATURES].item() == 0
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_training_without_the_hook_raises(tiny):
    distiller = classroom(tiny)
    with pytest.raises(ValueError, match=r'LinearWeight.*TransferWeightHook.*set_weight'):
        distiller(tiny.images(), tiny.class_samples(), mode='loss')
    with torch.no_grad():  # the first weight of the schedule
        losses = distiller(tiny.images(), tiny.class_samples(), mode='loss')
    assert losses['student.weight_from_teacher.features'].item() == 0


def test_copies_have_their_own_weights(tiny):
    distiller = set_weights(classroom(tiny), 0.4)
    other = set_weights(copy.deepcopy(distiller), 0.0)
    found = [
        step(one, tiny)[0]['student.weight_from_teacher.features'].item()
        for one in (distiller, other)
    ]
    assert found == pytest.approx([0.4, 0.0])


def test_teacher_cache_has_only_what_a_step_uses(tiny, tmp_path):
    cache = TeacherCache(tmp_path / 'cache.sqlite', 1.0)
    distiller = set_weights(classroom(tiny, teacher_cache=cache), 0.0)
    log = [step(distiller, tiny)[0] for _ in range(2)]
    assert [one['teacher.cached'].item() for one in log] == [0, 1]
    set_weights(distiller, 0.5)
    found = [step(distiller, tiny)[0] for _ in range(2)]
    assert [one['teacher.cached'].item() for one in found] == [0, 1]  # the map was missing
    plain = set_weights(classroom(tiny), 0.5)
    assert found[0][FEATURES].item() == pytest.approx(step(plain, tiny)[0][FEATURES].item())
    idle = set_weights(classroom(tiny, teacher_cache=cache, more=[]), 0.0)
    assert 'teacher.cached' not in step(idle, tiny)[0]


def test_plan_of_a_step():
    assert TransferStep([]).active == []
    assert not TransferStep([]).is_idle('teacher')


def test_schedules_of_the_paper_distiller(tiny):
    distiller = DiversifiedKDMLDistiller(
        mode='kdml',
        style='v3',
        teacher=tiny.classifier(width=6, block=32),
        students=[tiny.classifier(), tiny.classifier()],
        weights=dict(alpha=(0.2, 0.2), beta=(0.4, 0.3), gamma=(0.4, 0.5)),
        weight_schedules=dict(
            beta=WARM_UP, gamma=dict(student_2=[dict(type='MultiStepWeight', milestones=[3])])
        ),
        input_size=tiny.size,
    )
    names = [[one['type'] for one in row.schedule] for row in distiller.transfers]
    assert names == [['LinearWeight'], [], ['LinearWeight'], ['MultiStepWeight']]
    assert [term.transfer.weight for term in distiller.transfer_terms] == [0.4, 0.4, 0.3, 0.5]
    assert [term.active for term in distiller.transfer_terms] == [False, True, False, True]


def test_invalid_schedule_names_the_transfer(tiny):
    with pytest.raises(ValueError, match=r'teacher -> student features.*start_factor'):
        classroom(tiny, schedule=dict(WARM_UP, start_factor=2.0))
