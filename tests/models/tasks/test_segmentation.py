import copy
import re

import pytest
import torch
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.models import (
    ASPPHead,
    CascadeEncoderDecoder,
    EncoderDecoder,
    FCNHead,
    MixVisionTransformer,
    OCRHead,
    PSPHead,
    ResNetV1c,
    SegformerHead,
)
from mmseg.structures import SegDataSample

from mmkdml.models import FocalDiceLoss, StemResNet, UNetHead
from mmkdml.models.tasks import SegmentationTask

TASK = SegmentationTask()
RESNET = dict(
    type=ResNetV1c,
    depth=18,
    base_channels=4,
    stem_channels=4,
    strides=(1, 2, 1, 1),
    dilations=(1, 1, 2, 4),
)  # 4, 8, 16, 32 channels
COMMON = dict(channels=8, num_classes=3, dropout_ratio=0.5)
FCN = dict(type=FCNHead, in_channels=32, num_convs=1, **COMMON)


def auxiliary(index):
    return dict(FCN, in_channels=4 * 2**index, in_index=index)


class OwnLossHead(FCNHead):
    """Head with its own loss, like those of mask classification."""

    def loss(self, inputs, batch_data_samples, train_cfg):
        return dict(loss_own=self.forward(inputs).square().mean())


class OwnStepSegmentor(EncoderDecoder):
    def _decode_head_forward_train(self, inputs, data_samples):
        losses = super()._decode_head_forward_train(inputs, data_samples)
        return {key: 3 * value for key, value in losses.items()}


class OwnLossSegmentor(EncoderDecoder):
    def loss(self, inputs, data_samples):
        return dict(loss=self.extract_feat(inputs)[-1].mean())


def segmentor(head=FCN, backbone=RESNET, kind=EncoderDecoder, **kwargs):
    torch.manual_seed(0)
    return kind(backbone=backbone, decode_head=head, test_cfg=ConfigDict(mode='whole'), **kwargs)


def unet(num_classes=2, out_channels=1, **kwargs):
    head = dict(
        type=UNetHead,
        in_channels=(4, 4, 8, 16, 32),
        widths=(8, 8, 4, 4, 4),
        num_classes=num_classes,
        out_channels=out_channels,
        **kwargs,
    )
    return segmentor(head, dict(type=StemResNet, depth=18, base_channels=4, stem_channels=4))


def cascade():
    head = dict(type=OCRHead, in_channels=32, ocr_channels=4, **COMMON)
    return segmentor([FCN, head], kind=CascadeEncoderDecoder, num_stages=2)


NETWORKS = {
    'unet_binary': lambda: unet(loss_decode=dict(type=FocalDiceLoss)),
    'unet_classes': lambda: unet(3, 3),
    'fcn': segmentor,
    'fcn_auxiliary': lambda: segmentor(auxiliary_head=auxiliary(2)),
    'fcn_auxiliaries': lambda: segmentor(auxiliary_head=[auxiliary(2), auxiliary(1)]),
    'psp': lambda: segmentor(dict(type=PSPHead, in_channels=32, pool_scales=(1, 2), **COMMON)),
    'aspp': lambda: segmentor(dict(type=ASPPHead, in_channels=32, dilations=(1, 3), **COMMON)),
    'segformer': lambda: segmentor(
        dict(type=SegformerHead, in_channels=[4, 8, 8, 8], in_index=[0, 1, 2, 3], **COMMON),
        dict(
            type=MixVisionTransformer,
            embed_dims=4,
            num_layers=[1, 1, 1, 1],
            num_heads=[1, 2, 2, 2],
            drop_rate=0.2,
        ),
    ),
}

# Members without logits, whose features can be transferred.
OWN_LOSSES = {
    'head': lambda: segmentor(dict(FCN, type=OwnLossHead)),
    'segmentor': lambda: segmentor(kind=OwnLossSegmentor),
    'step': lambda: segmentor(kind=OwnStepSegmentor),
}


@pytest.fixture(params=NETWORKS)
def member(request):
    return NETWORKS[request.param]()


@pytest.fixture
def inputs():
    return torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(2)
    return [
        SegDataSample(
            metainfo=dict(
                img_shape=(32, 64), ori_shape=(32, 64), pad_shape=(32, 64), img_path=path
            ),
            gt_sem_seg=PixelData(data=torch.randint(2, (1, 32, 64), generator=generator)),
        )
        for path in 'ab'
    ]


def gradients(member, losses):
    member.zero_grad()
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    return {name: p.grad.clone() for name, p in member.named_parameters() if p.grad is not None}


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(value, expected[key]) for key, value in found.items()
    )


def content(batch):
    return [
        (sample.metainfo, {key: value.data.clone() for key, value in sample.items()})
        for sample in batch
    ]


def assert_step_is_the_frameworks(member, inputs, samples, left_out=()):
    """Compare losses, gradients and statistics; return the logits and those of a forward pass."""
    member.train()
    twin, other = copy.deepcopy(member), copy.deepcopy(member)
    torch.manual_seed(7)
    expected = {
        key: value for key, value in twin.loss(inputs, samples).items() if key not in left_out
    }
    torch.manual_seed(7)
    losses, logits = TASK.training_step(member, inputs, samples)
    assert same(losses, expected)
    assert same(gradients(member, losses), gradients(twin, expected))
    assert same(member.state_dict(), twin.state_dict())
    torch.manual_seed(7)
    return logits, other(inputs)


def test_training_step_equals_the_frameworks(member, inputs, samples):
    left_out = ['decode.acc_seg'] if member.out_channels == 1 else []
    logits, expected = assert_step_is_the_frameworks(member, inputs, samples, left_out)
    assert torch.equal(logits, expected)
    assert logits.shape[:2] == (2, member.out_channels)


@pytest.mark.parametrize('kind', OWN_LOSSES)
def test_custom_losses_are_used_without_logits(kind, inputs, samples):
    member = OWN_LOSSES[kind]()
    logits, _ = assert_step_is_the_frameworks(member, inputs, samples)
    assert logits is None
    assert TASK.logits(member.eval(), inputs) is None


def test_training_step_applies_dropout(inputs, samples):
    member = segmentor().train()
    first, second = (TASK.training_step(member, inputs, samples)[1] for _ in range(2))
    assert not torch.equal(first, second)


def test_accuracy_of_one_logit_is_not_logged(inputs, samples):
    member = segmentor(
        dict(
            FCN, num_classes=2, out_channels=1, threshold=0.5, loss_decode=dict(type=FocalDiceLoss)
        ),
        auxiliary_head=dict(
            auxiliary(2),
            num_classes=2,
            out_channels=1,
            threshold=0.5,
            loss_decode=dict(type=FocalDiceLoss),
        ),
    )
    assert {'decode.acc_seg', 'aux.acc_seg'} <= set(member.loss(inputs, samples))
    losses, _ = TASK.training_step(member, inputs, samples)
    assert set(losses) == {'decode.loss_focal_dice', 'aux.loss_focal_dice'}


def test_logits_have_a_gradient(member, inputs, samples):
    _, logits = TASK.training_step(member, inputs, samples)
    logits.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in member.backbone.parameters())


def test_logits_equal_the_frameworks(member, inputs):
    member.eval()
    assert torch.equal(TASK.logits(member, inputs), member(inputs))


def test_members_run_forward_once(member, inputs, samples):
    calls = []
    for part in (member.backbone, member.decode_head.conv_seg):
        part.register_forward_hook(lambda module, *args: calls.append(module))
    for forward in (
        lambda: TASK.training_step(member, inputs, samples),
        lambda: TASK.logits(member, inputs),
        lambda: TASK.predict(member, inputs, samples),
    ):
        calls.clear()
        forward()
        assert calls == [member.backbone, member.decode_head.conv_seg]


def test_default_taps():
    assert TASK.default_tap(segmentor()) == 'backbone'
    assert TASK.default_tap(unet()) == 'decode_head.blocks.0'


def test_predictions_equal_the_frameworks_without_labels(member, inputs, samples):
    member.eval()
    before = content(samples)
    predictions = TASK.predict(member, inputs, samples)
    for (meta, data), (meta_before, data_before) in zip(content(samples), before, strict=True):
        assert meta == meta_before
        assert same(data, data_before)
    for prediction, expected in zip(
        predictions, member.predict(inputs, copy.deepcopy(samples)), strict=True
    ):
        assert set(prediction.keys()) == {'seg_logits', 'pred_sem_seg'}
        assert prediction.metainfo == expected.metainfo
        for key in ('seg_logits', 'pred_sem_seg'):
            assert torch.equal(prediction.get(key).data, expected.get(key).data)


def test_predict_without_samples(member, inputs):
    predictions = TASK.predict(member.eval(), inputs, None)
    assert [set(p.keys()) for p in predictions] == [{'seg_logits', 'pred_sem_seg'}] * 2


def predicted(logits):
    """Predictions of a student in mmseg's format for images of different sizes."""
    return [SegDataSample(seg_logits=PixelData(data=torch.tensor(logit))) for logit in logits]


def combine(students, predictions, ensemble, samples=None):
    return TASK.combine(
        [students] * len(predictions), predictions, TASK.ensembles[ensemble], samples
    )


@pytest.mark.parametrize(
    ('ensemble', 'scores', 'mask'),
    [
        ('union', [0.9, 0.2, 0.6, 0.5], [1, 0, 1, 0]),
        ('max', [0.9, 0.2, 0.6, 0.5], [1, 0, 1, 0]),
        ('mean', [0.5, 0.15, 0.6, 0.45], [0, 0, 1, 0]),
        ('vote', [0.5, 0.0, 1.0, 0.0], [0, 0, 1, 0]),
    ],
)
def test_combine_one_logit_by_hand(ensemble, scores, mask):
    first = predicted([[[[0.9, 0.1], [0.6, 0.4]]], [[[0.7]]]])
    second = predicted([[[[0.1, 0.2], [0.6, 0.5]]], [[[0.8]]]])
    combined = combine(unet(), [first, second], ensemble)
    torch.testing.assert_close(combined[0].seg_logits.data, torch.tensor(scores).reshape(1, 2, 2))
    assert combined[0].pred_sem_seg.data.tolist() == torch.tensor(mask).reshape(1, 2, 2).tolist()
    assert combined[1].pred_sem_seg.data.tolist() == [[[1]]]  # another size


def test_combine_uses_the_threshold_of_the_students():
    predictions = [predicted([[[[0.9, 0.4]]]]), predicted([[[[0.1, 0.6]]]])]
    for threshold, mask in ((0.3, [1, 1]), (0.7, [1, 0]), (0.95, [0, 0])):
        combined = combine(unet(threshold=threshold), predictions, 'union')
        assert combined[0].pred_sem_seg.data.tolist() == [[mask]]


def test_combine_classes_by_hand(samples):
    probabilities = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]])
    logits = probabilities.log() + 3  # any constant
    predictions = [predicted([logit.reshape(3, 1, 1).tolist()]) for logit in logits]
    for ensemble, scores, label in (
        ('max', [0.5, 0.3, 0.7], 2),
        ('union', [0.5, 0.3, 0.7], 2),
        ('mean', [0.3, 0.25, 0.45], 2),
        ('vote', [0.5, 0.0, 0.5], 2),
    ):
        combined = combine(unet(3, 3), predictions, ensemble)
        torch.testing.assert_close(
            combined[0].seg_logits.data, torch.tensor(scores).reshape(3, 1, 1)
        )
        assert combined[0].pred_sem_seg.data.tolist() == [[[label]]]


def test_union_of_two_classes_is_the_union_of_the_masks():
    probabilities = torch.tensor(
        [[[0.9, 0.2, 0.7], [0.1, 0.8, 0.3]], [[0.4, 0.1, 0.6], [0.6, 0.9, 0.4]]]
    ).unsqueeze(2)
    predictions = [predicted([p.log().tolist()]) for p in probabilities]
    combined = combine(unet(2, 2), predictions, 'union')
    assert combined[0].pred_sem_seg.data.tolist() == [[[1, 1, 0]]]


def test_combine_keeps_the_labels_of_samples(member, inputs, samples):
    truth = [sample.gt_sem_seg.data.clone() for sample in samples]
    predictions = TASK.predict(member.eval(), inputs, samples)
    combined = combine(member, [predictions], 'max', samples)
    for ours, own_sample, theirs, mask in zip(combined, samples, predictions, truth, strict=True):
        assert ours is own_sample
        assert torch.equal(ours.gt_sem_seg.data, mask)
        assert torch.equal(ours.pred_sem_seg.data, theirs.pred_sem_seg.data.long())


def test_cascades_can_be_students(inputs, samples):
    students = dict(a=cascade().eval(), b=segmentor().eval())
    TASK.check_students(students)
    predictions = [TASK.predict(student, inputs, samples) for student in students.values()]
    combined = TASK.combine(list(students.values()), predictions, TASK.ensembles['mean'], samples)
    assert combined[0].pred_sem_seg.data.shape == (1, 32, 64)


def test_labels_are_masks(samples):
    samples[0].gt_sem_seg.data = samples[0].gt_sem_seg.data.to(torch.uint8)
    truth = TASK.truth(samples)
    assert truth.shape == (2, 32, 64)
    assert truth.dtype == torch.long
    assert all(
        torch.equal(one, s.gt_sem_seg.data[0]) for one, s in zip(truth, samples, strict=True)
    )


def test_samples_without_mask_raise(samples):
    with pytest.raises(ValueError, match=r'a mask \(gt_sem_seg\)'):
        TASK.truth([samples[0], SegDataSample()])


def test_number_of_classes():
    assert [
        TASK.num_classes(member) for member in (unet(), unet(3, 3), segmentor(), cascade())
    ] == [2, 3, 3, 3]


def test_classifier_of_a_segmentor_raises():
    with pytest.raises(ValueError, match='segmentor does not have.* FitNet or CWD'):
        TASK.classifier(unet())
    with pytest.raises(ValueError, match='SRRL and SimKD .* classification'):
        TASK.reuse_classifier(unet(), unet())


def test_students_of_one_kind_are_valid():
    TASK.check_students(dict(a=unet(), b=unet()))
    TASK.check_students(dict(a=segmentor(), b=unet(3, 3)))


@pytest.mark.parametrize(
    ('other', 'found'),
    [
        (lambda: unet(threshold=0.3), 'a 1, 0.5, b 1, 0.3'),
        (lambda: unet(2, 2), 'a 1, 0.5, b 2, None'),
    ],
)
def test_students_of_two_kinds_raise(other, found):
    with pytest.raises(
        ValueError,
        match=re.escape(f'students with the same out_channels and threshold, got {found}'),
    ):
        TASK.check_students(dict(a=unet(), b=other()))
