import itertools
import math

import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from mmkdml.functional import detection_divergence
from mmkdml.models import MODES, STYLES, DiversifiedKDMLDistiller, FeatureMSELoss
from mmkdml.models.tasks import detection_task

VARIANTS = list(itertools.product(MODES, STYLES))
P, F = 'predictions', 'features'
GREEK = dict(a1=0.3, a2=0.7, b1=0.11, b2=0.13, g1=0.17, g2=0.19)


def weights_of(mode):
    weights = dict(alpha=(GREEK['a1'], GREEK['a2']))
    if mode != 'ml':
        weights['beta'] = (GREEK['b1'], GREEK['b2'])
    if mode in ('ml', 'kdml'):
        weights['gamma'] = (GREEK['g1'], GREEK['g2'])
    return weights


def build(task, mode='kdml', style='v3', **kwargs):
    kwargs.setdefault('weights', weights_of(mode))
    kwargs.setdefault('students', [task.student(), task.student()])
    kwargs.setdefault('teacher', task.teacher())
    return DiversifiedKDMLDistiller(mode=mode, style=style, input_size=(32, 32), **kwargs)


@pytest.mark.parametrize('fuse', [True, False])
def test_fusion_of_batch_norms_can_be_switched_off(task, fuse):
    distiller = build(task, fuse_batch_norms=fuse)
    assert distiller._copies.enabled == distiller._frozen.copies.enabled == fuse


def kl_by_hand(learner, source, temperature=2.0):
    """D(learner || source) pixel by pixel, in plain Python floats."""

    def softened(logits):
        if len(logits) == 1:
            logits = [0.0, logits[0]]
        exps = [math.exp(z / temperature) for z in logits]
        return [e / sum(exps) for e in exps]

    def rows(logits):
        return logits.detach().movedim(1, -1).reshape(-1, logits.shape[1]).double().tolist()

    values = [
        sum(s * math.log(s / p) for s, p in zip(softened(a), softened(b), strict=True))
        for a, b in zip(rows(learner), rows(source), strict=True)
    ]
    return sum(values) / len(values)


def boxes_by_hand(learner, source):
    """The loss of both classes and boxes, which ``tests/functional/test_detection.py`` covers."""
    return detection_divergence(learner, source, num_classes=3).item()


def shared_map(member):
    """Return the module of the shared feature map."""
    if hasattr(member, 'bbox_head'):
        return member.neck.fpn_convs[0]
    if hasattr(member, 'decode_head'):
        return member.decode_head.blocks[0]
    return member.neck.conv_block if hasattr(member.neck, 'conv_block') else member.backbone


def outputs_of(member, inputs):
    """Compute logits and the shared feature map with an independent hook."""
    maps = []
    handle = shared_map(member).register_forward_hook(lambda *call: maps.append(call[-1]))
    logits = member(inputs, mode='tensor')
    handle.remove()
    if hasattr(member, 'bbox_head'):
        logits = detection_task().logits(member, inputs)
    return logits, maps[0][-1] if isinstance(maps[0], tuple) else maps[0]


@pytest.mark.parametrize(('mode', 'style'), VARIANTS)
def test_loss_keys_and_values_by_hand(task, tiny, mode, style, paper_transfers):
    distiller = build(task, mode, style)
    # In eval mode, so that the forward pass of the oracle sees the same batch norms.
    distiller.double().eval()
    inputs, samples = task.batch()
    inputs = inputs.double()
    losses = distiller(inputs, samples, mode='loss')

    members = distiller.named_members()
    expected = {}
    for name, weight in (('teacher', 1.0), ('student_1', GREEK['a1']), ('student_2', GREEK['a2'])):
        if name in members and not (name == 'teacher' and mode == 'kd_off'):
            plain = members[name].loss(inputs, samples)
            for key in task.member_losses:
                expected[f'{name}.{key}'] = weight * tiny.added(plain[key]).item()
    outputs = {name: outputs_of(member, inputs) for name, member in members.items()}
    for source, learner, kind, letter in paper_transfers[mode, style]:
        if kind == P:
            by_hand = boxes_by_hand if task.name == 'detection' else kl_by_hand
            value = by_hand(outputs[learner][0], outputs[source][0])
        else:
            gap = (outputs[learner][1].double() - outputs[source][1].double()).flatten().tolist()
            value = sum(g * g for g in gap) / len(gap)
        weight = GREEK[letter[0] + learner[-1]]
        expected[f'{learner}.loss_from_{source}.{kind}'] = weight * value

    found = {key: tiny.added(value).item() for key, value in losses.items() if 'loss' in key}
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(('mode', 'style'), VARIANTS)
def test_transfers_train_only_their_learner(task, mode, style):
    distiller = build(task, mode, style)
    inputs, samples = task.batch()
    for transfer in distiller.transfers:
        distiller.zero_grad()
        distiller(inputs, samples, mode='loss')[transfer.key].backward()
        touched = {
            name.split('.')[1]
            for name, parameter in distiller.named_parameters()
            if parameter.grad is not None and parameter.grad.abs().sum() > 0
        }
        assert touched == {transfer.learner}


@pytest.mark.parametrize(('mode', 'style'), VARIANTS)
def test_all_trained_parameters_get_gradients(task, tiny, mode, style):
    distiller = build(task, mode, style)
    tiny.optimized(distiller(*task.batch(), mode='loss')).backward()
    without = [name for name, parameter in distiller.named_parameters() if parameter.grad is None]
    assert without == []


@pytest.mark.parametrize('mode', MODES)
def test_attributes(task, mode):
    distiller = build(task, mode)
    assert (distiller.teacher is None) == (mode == 'ml')
    assert isinstance(distiller.students, nn.ModuleList)
    assert len(distiller.students) == 2
    assert (distiller.mode, distiller.style) == (mode, 'v3')
    assert distiller.student_names == ('student_1', 'student_2')
    assert [t.learner for t in distiller.transfers] == sorted(
        t.learner for t in distiller.transfers
    )


def test_members_may_be_modules(task):
    teacher = MMENGINE_MODELS.build(task.teacher())
    students = [MMENGINE_MODELS.build(task.student()) for _ in range(2)]
    distiller = build(task, teacher=teacher, students=students)
    assert distiller.teacher is teacher
    assert list(distiller.students) == students


def test_built_from_the_registry_by_name(task):
    config = ConfigDict(
        type='mmkdml.DiversifiedKDMLDistiller',
        mode='ml',
        style='v1',
        input_size=(32, 32),
        students=[task.student(), task.student()],
        weights=dict(alpha=(1, 1), gamma=(1, 1)),
    )
    assert isinstance(MMENGINE_MODELS.build(config), DiversifiedKDMLDistiller)


def test_temperature_direction_and_scale_reach_the_loss(tiny):
    students = [tiny.classifier(), tiny.classifier()]

    def loss(**kwargs):
        torch.manual_seed(0)
        distiller = DiversifiedKDMLDistiller(
            mode='ml',
            style='v1',
            students=students,
            weights=dict(alpha=(1, 1), gamma=(1, 1)),
            input_size=tiny.size,
            **kwargs,
        ).eval()
        # Far apart, so that the directions differ.
        distiller.members['student_2'].head.fc.weight.data.mul_(200)
        losses = distiller(tiny.images(), tiny.class_samples(), mode='loss')
        return losses['student_1.loss_from_student_2.predictions'].item()

    printed = loss()
    assert printed == loss(temperature=2.0, kl_direction='learner||source', kl_scale='none')
    assert loss(kl_scale='temperature_squared') == pytest.approx(4 * printed)
    assert loss(kl_direction='source||learner') != pytest.approx(printed, rel=1e-2)
    assert loss(temperature=8.0) < printed


def test_taps_losses_and_projectors_reach_the_transfers(tiny):
    distiller = DiversifiedKDMLDistiller(
        mode='kdml',
        style='v2',
        teacher=tiny.classifier(width=6),
        students=[tiny.classifier(), tiny.classifier()],
        weights=dict(alpha=(1, 1), beta=(1, 1), gamma=(1, 1)),
        taps=dict(teacher='backbone.layer3', students='backbone.layer3'),
        losses=dict(features=dict(type=FeatureMSELoss)),
        projectors={
            'teacher->student_1': dict(type='ConvProjector'),
            'teacher->student_2': dict(type='ConvProjector', side='source'),
        },
        input_size=tiny.size,
    )
    by_route = {(t.source, t.learner): t for t in distiller.transfers}
    assert by_route['teacher', 'student_1'].source_tap == 'backbone.layer3'
    assert by_route['student_2', 'student_1'].learner_tap == 'backbone.layer3'
    assert by_route['student_2', 'student_1'].projector is None
    convolutions = [m for m in distiller.transfer_modules.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(16, 24), (24, 16)]
    losses = distiller(tiny.images(), tiny.class_samples(), mode='loss')
    tiny.optimized(losses).backward()
    assert all(c.weight.grad.abs().sum() > 0 for c in convolutions)


def test_single_projector_is_used_for_all_features(tiny):
    distiller = DiversifiedKDMLDistiller(
        mode='kd_on',
        style='v3',
        teacher=tiny.classifier(width=6),
        students=[tiny.classifier(), tiny.classifier()],
        weights=dict(alpha=(1, 1), beta=(1, 1)),
        projectors=dict(type='ConvProjector'),
        input_size=tiny.size,
    )
    assert [t.projector is not None for t in distiller.transfers] == [False, True]


def test_different_students_need_a_projector(tiny):
    kwargs = dict(
        mode='ml',
        style='v2',
        students=[tiny.classifier(), tiny.classifier(width=6)],
        weights=dict(alpha=(1, 1), gamma=(1, 1)),
        input_size=tiny.size,
    )
    with pytest.raises(ValueError, match='projectors=.*student_2->student_1.*ConvProjector'):
        DiversifiedKDMLDistiller(**kwargs)
    losses = DiversifiedKDMLDistiller(projectors=dict(type='ConvProjector'), **kwargs)(
        tiny.images(), tiny.class_samples(), mode='loss'
    )
    assert torch.isfinite(tiny.optimized(losses))


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(mode='kd'), 'mode must be one of ml, kd_off, kd_on, kdml; got .kd.'),
        (dict(style='v4'), 'style must be one of v1, v2, v3; got .v4.'),
        (dict(weights=dict(alpha=(1, -1), beta=(1, 1), gamma=(1, 1))), 'alpha must be finite'),
        (dict(weights=dict(alpha=(1, 1), beta=(1, 1))), 'missing: gamma'),
        (dict(teacher=None), 'teacher must be'),
        (dict(students=[{}]), 'a list of 2 configs or modules, got 1'),
        (dict(students=dict(type='x')), 'a list of 2 configs or modules, got 1'),
        (dict(teacher_checkpoint='x.pth'), 'mode kd_off'),
        (dict(taps=dict(pupil='head')), 'keys of taps must be some of teacher, student_1'),
        (dict(losses=dict(attention={})), 'keys of losses must be some of predictions, features'),
        (
            dict(projectors={'teacher->pupil': {}}),
            'keys of projectors must be some of teacher->student',
        ),
        (dict(ensemble='sum'), 'ensemble must be one of (max|wbf)'),
        (dict(temperature=0.0), 'temperature: .* got 0.0'),
        (dict(kl_direction='student||teacher'), 'direction: expected one of'),
        (dict(kl_scale='T'), 'scale: expected one of'),
    ],
)
def test_invalid_arguments_raise(task, change, message):
    with pytest.raises(ValueError, match=message):
        build(task, **{'mode': 'kdml', 'weights': weights_of('kdml'), **change})


def test_resize_by_kind_of_knowledge(tiny):
    teacher, student = tiny.mmseg_pair()[0], tiny.segmentor(out_channels=3)
    model = DiversifiedKDMLDistiller(
        'kd_on', 'v1', [student, student], dict(alpha=(1, 1), beta=(1, 1)), teacher,
        resize=dict(predictions='source'), input_size=tiny.size,
    )  # fmt: skip
    assert [row.resize for row in model.transfers] == ['source', 'source']
    with pytest.raises(ValueError, match='keys of resize.*predictions, features; got maps'):
        DiversifiedKDMLDistiller(
            'kd_on', 'v1', [student, student], dict(alpha=(1, 1), beta=(1, 1)), teacher,
            resize=dict(maps='source'), input_size=tiny.size,
        )  # fmt: skip
