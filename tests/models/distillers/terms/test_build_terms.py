import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

from mmkdml.models import (
    ConvProjector,
    FeatureMSELoss,
    KnowledgeDistiller,
    PredictionKLLoss,
    Transfer,
    UNetHead,
)
from mmkdml.models.distillers.members import evaluating, probe_member
from mmkdml.models.distillers.terms.build_terms import build_transfer_terms
from mmkdml.models.tasks import ClassificationTask


def terms(tiny, *transfers, **members):
    members = {name: MODELS.build(config) for name, config in members.items()} or dict(
        t=MODELS.build(tiny.classifier()), s=MODELS.build(tiny.classifier())
    )
    return build_transfer_terms(members, transfers, ClassificationTask(), tiny.size)


def test_defaults(tiny):
    predictions, features = terms(
        tiny, Transfer('t', 's', 'predictions', 0.5), Transfer('t', 's', 'features', 2.0)
    )
    assert isinstance(predictions.loss, PredictionKLLoss)
    assert (predictions.source_tap, predictions.learner_tap) == (None, None)
    assert predictions.source_shape == (1, 3)
    assert predictions.member_taps() == []
    assert isinstance(features.loss, FeatureMSELoss)
    assert features.member_taps() == [('t', 'backbone'), ('s', 'backbone')]
    assert features.learner_shape == (1, 32, 1, 1)
    assert features.projector is None


def test_transfers_of_weight_zero_are_not_built(tiny):
    assert terms(tiny, Transfer('t', 's', 'features', 0.0, source_tap='no such module')) == []


class PretendedDetection(ClassificationTask):
    name = 'detection'


@pytest.mark.parametrize(
    ('task', 'knowledge', 'loss', 'message'),
    [
        (ClassificationTask, 'predictions', 'DetectionPredictionLoss', 'only for detection.*class'),
        (ClassificationTask, 'features', 'FGDLoss', 'FGDLoss is only for detection, got.*classif'),
        (PretendedDetection, 'predictions', None, 'PredictionKLLoss is not for detection.*Use Det'),
        (PretendedDetection, 'predictions', 'FeatureMSELoss', 'is not for detection.*Use Detec'),
        (PretendedDetection, 'features', 'IntraClassVariationLoss', 'is not for detection.*FGD'),
        (PretendedDetection, 'features', None, None),
    ],
)
def test_losses_for_detection_and_for_other_tasks_are_not_mixed_up(
    tiny, task, knowledge, loss, message
):
    members = {name: MODELS.build(tiny.classifier()) for name in 'ts'}
    row = Transfer('t', 's', knowledge, 1.0, loss=loss and dict(type=f'mmkdml.{loss}'))
    if message is None:
        assert len(build_transfer_terms(members, [row], task(), tiny.size)) == 1
        return
    with pytest.raises(ValueError, match=f'Invalid transfer t -> s.*{message}'):
        build_transfer_terms(members, [row], task(), tiny.size)


def test_repeated_keys_are_numbered(tiny):
    rows = [Transfer('t', 's', 'features', 1.0)] * 3
    assert [term.key for term in terms(tiny, *rows)] == [
        's.loss_from_t.features',
        's.loss_from_t.features_2',
        's.loss_from_t.features_3',
    ]


def test_term_is_weight_times_loss_of_projected_outputs(tiny):
    source, learner = torch.randn(2, 32, 4, 4), torch.randn(2, 32, 4, 4)
    for side in ('learner', 'source'):
        row = Transfer('t', 's', 'features', 0.5, projector=dict(type='ConvProjector', side=side))
        (term,) = terms(tiny, row)
        term.projector.eval()
        projected = (
            (term.projector(source), learner)
            if side == 'source'
            else (source, term.projector(learner))
        )
        expected = 0.5 * (projected[0] - projected[1]).pow(2).mean()
        assert torch.allclose(term(source, learner)[term.key], expected)


@pytest.mark.parametrize(('side', 'channels'), [('learner', (32, 48)), ('source', (48, 32))])
def test_projector_channels_are_inferred(tiny, side, channels):
    row = Transfer('t', 's', 'features', 1.0, projector=dict(type=ConvProjector, side=side))
    (term,) = terms(tiny, row, t=tiny.classifier(width=6), s=tiny.classifier())
    convolution = next(m for m in term.projector.modules() if isinstance(m, nn.Conv2d))
    assert (convolution.in_channels, convolution.out_channels) == channels


class RecordingModule(nn.Module):
    """Loss or identity projector that records the arguments it was built with."""

    requires_same_shape = False

    def __init__(self, **arguments):
        super().__init__()
        self.arguments = arguments

    def forward(self, first, second=None):
        first = first[0] if isinstance(first, list) else first
        return first if second is None else first.mean()


class RecordingLoss(RecordingModule):
    def __init__(self, learner_channels, source_channels, num_classes):
        super().__init__(learner=learner_channels, source=source_channels, classes=num_classes)


class RecordingProjector(RecordingModule):
    def __init__(self, in_channels, out_channels, in_size, out_size, side='learner'):
        super().__init__(channels=(in_channels, out_channels), sizes=(in_size, out_size))
        self.side = side


def test_loss_gets_the_channels_of_both_sides_and_the_learners_classes(tiny):
    loss = dict(type=RecordingLoss)
    stages = ['backbone.layer1', 'backbone.layer4', 'neck']
    two, three = tiny.classifier(num_classes=2), tiny.classifier(width=6, num_classes=3)
    one, several, predictions = terms(
        tiny,
        Transfer('t', 's', 'features', 1.0, loss=loss),
        Transfer('t', 's', 'features', 1.0, loss=loss, source_tap=stages, learner_tap='neck'),
        Transfer('t', 's', 'predictions', 1.0, loss=loss),
        t=three,
        s=two,
    )
    assert one.loss.arguments == dict(learner=32, source=48, classes=2)
    assert several.loss.arguments == dict(learner=32, source=[6, 48, 48], classes=2)
    assert predictions.loss.arguments == dict(learner=2, source=3, classes=2)
    assert several.source_shape == [(1, 6, 8, 8), (1, 48, 1, 1), (1, 48)]
    assert several.learner_shape == (1, 32)


def test_loss_gets_the_channels_after_the_projector(tiny):
    row = Transfer(
        't', 's', 'features', 1.0, loss=dict(type=RecordingLoss), projector=dict(type=ConvProjector)
    )
    (term,) = terms(tiny, row, t=tiny.classifier(width=6), s=tiny.classifier())
    assert term.loss.arguments == dict(learner=48, source=48, classes=3)


def test_config_overrides_inferred_arguments(tiny):
    row = dict(type=RecordingLoss, num_classes=7)
    (term,) = terms(tiny, Transfer('t', 's', 'predictions', 1.0, loss=row))
    assert term.loss.arguments['classes'] == 7
    assert row == dict(type=RecordingLoss, num_classes=7)


@pytest.mark.parametrize('side', ['learner', 'source'])
def test_projector_gets_channels_and_sizes_of_both_sides(tiny, side):
    source, learner = (24, (2, 2)), (4, (8, 8))
    row = Transfer(
        't',
        's',
        'features',
        1.0,
        loss=RecordingModule(),
        projector=dict(type=RecordingProjector, side=side),
        source_tap='backbone.layer3',
        learner_tap='backbone.layer1',
    )
    (term,) = terms(tiny, row, t=tiny.classifier(width=6), s=tiny.classifier())
    own, other = (source, learner) if side == 'source' else (learner, source)
    assert term.projector.arguments == dict(channels=(own[0], other[0]), sizes=(own[1], other[1]))


def test_modules_are_used_as_they_are(tiny):
    loss, projector = FeatureMSELoss(), nn.Identity()
    (term,) = terms(tiny, Transfer('t', 's', 'features', 1.0, loss=loss, projector=projector))
    assert term.loss is loss
    assert term.projector is projector


def test_loss_may_support_different_shapes(tiny):
    class MeansMSE(nn.Module):
        requires_same_shape = False

        def forward(self, learner, source):
            return (learner.mean() - source.mean()) ** 2

    (term,) = terms(
        tiny,
        Transfer('t', 's', 'features', 1.0, loss=MeansMSE()),
        t=tiny.classifier(width=6),
        s=tiny.classifier(),
    )
    assert term.source_shape != term.learner_shape


def test_evaluating_restores_modes_after_an_error():
    network = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Dropout()))
    network[1].eval()
    network[1][0].train()
    before = [module.training for module in network.modules()]

    def fail():
        with evaluating(network):
            assert not any(module.training for module in network.modules())
            assert not torch.is_grad_enabled()
            raise RuntimeError('on purpose')

    with pytest.raises(RuntimeError, match='on purpose'):
        fail()
    assert [module.training for module in network.modules()] == before
    assert torch.is_grad_enabled()


def total(losses):
    return sum(value for key, value in losses.items() if 'loss' in key)


@pytest.mark.parametrize(
    ('teacher', 'row', 'message'),
    [
        (
            dict(width=6),
            dict(knowledge='features'),
            r'\(1, 48, 1, 1\) of teacher at the tap .backbone. and \(1, 32, 1, 1\) of student'
            r'.*ConvProjector',
        ),
        (
            dict(num_classes=5),
            dict(knowledge='predictions'),
            r'\(1, 5\) of teacher and \(1, 3\) of student.*same number of logits',
        ),
        (
            dict(),
            dict(knowledge='features', source_tap='backbone.layer3'),
            r'\(1, 16, 2, 2\).*\(1, 32, 1, 1\).*ConvProjector.*resize=True',
        ),
        (
            dict(),
            dict(knowledge='features', source_tap='head'),
            r'\(1, 3\).*\(1, 32, 1, 1\).*source_tap=',
        ),
    ],
)
def test_shape_mismatch_names_shapes_and_a_fix(tiny, teacher, row, message):
    with pytest.raises(ValueError, match=message):
        KnowledgeDistiller(
            members=dict(teacher=tiny.classifier(**teacher), student=tiny.classifier()),
            transfers=[Transfer('teacher', 'student', weight=1.0, **row)],
            input_size=tiny.size,
        )


def test_coarser_logits_need_an_interpolating_projector(tiny):
    teacher, student = tiny.mmseg_pair()
    student['decode_head'] = dict(student['decode_head'], in_index=0, in_channels=8)
    student.pop('auxiliary_head')
    row = dict(source='teacher', learner='student', knowledge='predictions', weight=1.0)
    with pytest.raises(ValueError, match='InterpolateProjector'):
        KnowledgeDistiller(
            members=dict(teacher=teacher, student=student), transfers=[row], input_size=tiny.size
        )
    row['projector'] = dict(type='InterpolateProjector', scale_factor=2, side='source')
    KnowledgeDistiller(
        members=dict(teacher=teacher, student=student), transfers=[row], input_size=tiny.size
    )


def test_predictions_of_a_head_without_logits_raise(tiny):
    class TwoMaps(UNetHead):
        def forward(self, inputs):
            logits = super().forward(inputs)
            return logits, logits

        def loss_by_feat(self, seg_logits, samples):
            return super().loss_by_feat(seg_logits[0], samples)

    config = tiny.segmentor()
    config['decode_head']['type'] = TwoMaps
    with pytest.raises(ValueError, match='head of teacher.*single tensor of logits'):
        KnowledgeDistiller(
            members=dict(teacher=config, student=tiny.segmentor()),
            transfers=[Transfer('teacher', 'student', 'predictions', 1.0)],
            input_size=tiny.size,
        )
    features = KnowledgeDistiller(
        members=dict(teacher=config, student=tiny.segmentor()),
        transfers=[Transfer('teacher', 'student', 'features', 1.0)],
        input_size=tiny.size,
    )
    assert torch.isfinite(total(features(tiny.images(), tiny.mask_samples(), mode='loss')))


def test_loss_may_project_channels_of_features_only(tiny):
    teacher, student = tiny.segmentor(first=8), tiny.segmentor(first=16)
    row = dict(source='teacher', learner='student', weight=1.0, loss=dict(type='ChannelWiseLoss'))
    room = KnowledgeDistiller(
        members=dict(teacher=teacher, student=student),
        transfers=[dict(row, knowledge='features')],
        input_size=tiny.size,
    )
    (weight,) = room.transfer_modules.parameters()
    assert weight.shape == (8, 16, 1, 1)
    with pytest.raises(ValueError, match=r'\(1, 8, .*at the tap .backbone.relu.'):
        KnowledgeDistiller(
            members=dict(teacher=tiny.segmentor(width=8), student=student),
            transfers=[dict(row, knowledge='features', source_tap='backbone.relu')],
            input_size=tiny.size,
        )
    with pytest.raises(ValueError, match=r'\(1, 3, 32, 32\).*\(1, 1, 32, 32\)'):
        KnowledgeDistiller(
            members=dict(teacher=tiny.segmentor(out_channels=3), student=student),
            transfers=[dict(row, knowledge='predictions')],
            input_size=tiny.size,
        )


def of_two_strides(tiny, loss=None, **options):
    """Teacher with logits at stride 8, and student (U-Net) with logits of full size."""
    teacher, student = tiny.mmseg_pair()[0], tiny.segmentor(out_channels=3)
    row = Transfer('teacher', 'student', 'predictions', 1.0, loss=loss, **options)
    return KnowledgeDistiller(dict(teacher=teacher, student=student), [row], input_size=tiny.size)


@pytest.mark.parametrize('size', [32, 40])
def test_logits_of_different_strides_are_resized_in_every_step(tiny, size):
    model = of_two_strides(tiny, resize='source').eval()
    inputs = torch.randn(2, 3, size, size)
    samples = tiny.as_samples(torch.randint(3, (2, size, size)))
    losses = model(inputs, samples, mode='loss')
    logits = model(inputs, mode='tensor')
    assert logits['teacher'].shape[2:] == (size // 8, size // 8)
    resized = nn.functional.interpolate(
        logits['student'], logits['teacher'].shape[2:], mode='bilinear'
    )
    expected = PredictionKLLoss()(resized, logits['teacher'])
    torch.testing.assert_close(losses['student.loss_from_teacher.predictions'], expected)
    with pytest.raises(ValueError, match=r'\(1, 3, 4, 4\) of teacher and \(1, 3, 32, 32\)'):
        of_two_strides(tiny)


@pytest.mark.parametrize('kind', ['PredictionKLLoss', 'PixelWiseLoss', 'ChannelWiseLoss'])
def test_padding_of_a_batch_changes_no_loss_with_ignore_index(tiny, kind):
    model = of_two_strides(tiny, dict(type=kind, ignore_index=255), resize='source').eval()
    key = 'student.loss_from_teacher.predictions'
    (term,) = model.transfer_terms
    truth = torch.randint(3, (2, 32, 32))
    logits = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    padded = [nn.functional.pad(one, (0, 4, 0, 4), value=3.0) for one in logits]
    padded[0][:, 0, 4:] = -5

    def loss(truth, sides):
        extra = term.extra_loss_inputs(model.task, model.members.teacher, tiny.as_samples(truth))
        return term(*sides, *extra)[key]

    in_padding = nn.functional.pad(truth, (0, 32, 0, 32), value=255)
    torch.testing.assert_close(loss(in_padding, padded), loss(truth, logits))
    assert model(torch.randn(2, 3, 32, 32), tiny.as_samples(truth), mode='loss')[key].isfinite()


def with_channels(config, channels, **changes):
    return dict(config, backbone=dict(config['backbone'], in_channels=channels), **changes)


@pytest.mark.parametrize('channels', [1, 2, 4, 13])
def test_trial_image_has_the_channels_of_the_members(tiny, task, channels):
    members = dict(
        teacher=with_channels(task.teacher(), channels),
        student=with_channels(task.student(), channels),
    )
    row = Transfer('teacher', 'student', 'features', 1.0)
    (term,) = KnowledgeDistiller(members, [row], input_size=tiny.size).transfer_terms
    assert term.source_shape == term.learner_shape
    assert len(term.source_shape) == 4


def test_members_and_normalization_of_other_channels_raise(tiny):
    def build(teacher, student, mean):
        members = dict(
            teacher=with_channels(tiny.classifier(), teacher),
            student=with_channels(tiny.classifier(), student),
        )
        return KnowledgeDistiller(
            members,
            [Transfer('teacher', 'student', 'predictions', 1.0)],
            input_size=tiny.size,
            data_preprocessor=dict(
                type='mmpretrain.ClsDataPreprocessor', mean=[0.0] * mean, std=[1.0] * mean
            ),
        )

    build(4, 4, 4)
    build(4, 4, 1)  # the same for all channels
    with pytest.raises(ValueError, match='channels: expected the same.*teacher: 4, student: 3'):
        build(4, 3, 1)
    with pytest.raises(ValueError, match='student: 4, the mean of data_preprocessor: 3. Set in_ch'):
        build(4, 4, 3)


def test_network_that_rearranges_pixels_is_tried_with_the_channels_of_the_mean(tiny):
    network = MODELS.build(tiny.classifier())
    network.backbone.conv1 = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(8, 4, 7, 1, 3))
    network.data_preprocessor.register_buffer('mean', torch.zeros(2, 1, 1))
    outputs = probe_member(network, ClassificationTask(), (), tiny.size)
    assert outputs.input_channels == 2
    network.data_preprocessor.mean = torch.zeros(4, 1, 1)
    with pytest.raises(ValueError, match='channels'):
        probe_member(network, ClassificationTask(), (), tiny.size)
