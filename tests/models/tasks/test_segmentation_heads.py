"""Cascades, heads with several outputs, and heads without logits."""

import copy

import pytest
import torch
import torch.nn.functional as F
from mmengine import ConfigDict
from mmengine.structures import PixelData
from mmseg.models import (
    CascadeEncoderDecoder,
    DDRNet,
    EncoderDecoder,
    FCNHead,
    OCRHead,
    PIDNet,
    PointHead,
    ResNetV1c,
)
from mmseg.models.decode_heads import DAHead, DDRHead, EncHead, IterativeDecodeHead, PIDHead
from mmseg.models.decode_heads.knet_head import KernelUpdateHead, KernelUpdator
from mmseg.structures import SegDataSample

from mmkdml.models import KnowledgeDistiller, Transfer
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import SegmentationTask

TASK = SegmentationTask()
SIZE = (64, 64)
RESNET = dict(
    type=ResNetV1c,
    depth=18,
    base_channels=4,
    stem_channels=4,
    strides=(1, 2, 1, 1),
    dilations=(1, 1, 2, 4),
)
COMMON = dict(channels=8, num_classes=3, dropout_ratio=0.5)
FCN = dict(type=FCNHead, in_channels=32, num_convs=1, **COMMON)
OCR = dict(type=OCRHead, in_channels=32, ocr_channels=4, **COMMON)
POINT = dict(type=PointHead, in_channels=[32], in_index=[3], num_fcs=1, **COMMON)
CE = dict(type='CrossEntropyLoss')
OHEM = dict(type='OhemCrossEntropy', thres=1.0, min_kept=10**6)  # keeps all pixels
KERNELS = dict(
    type=KernelUpdateHead,
    num_classes=3,
    num_ffn_fcs=2,
    num_heads=2,
    num_mask_fcs=1,
    feedforward_channels=8,
    in_channels=8,
    out_channels=8,
    feat_transform_cfg=dict(conv_cfg=dict(type='Conv2d'), act_cfg=None),
    kernel_updator_cfg=dict(
        type=KernelUpdator,
        in_channels=8,
        feat_channels=8,
        out_channels=8,
        act_cfg=dict(type='ReLU'),
        norm_cfg=dict(type='LN'),
    ),
)


def segmentor(head, backbone=RESNET, kind=EncoderDecoder, test_cfg=None, **options):
    torch.manual_seed(0)
    test_cfg = ConfigDict(test_cfg or dict(mode='whole'))
    options = {key: copy.deepcopy(value) for key, value in options.items()}
    return kind(backbone=backbone, decode_head=copy.deepcopy(head), test_cfg=test_cfg, **options)


def cascade(*heads, **options):
    return segmentor(list(heads), kind=CascadeEncoderDecoder, num_stages=len(heads), **options)


def point_rend():
    settings = dict(subdivision_steps=1, subdivision_num_points=16, scale_factor=2)
    train = dict(num_points=16, oversample_ratio=2, importance_sample_ratio=0.5)
    return cascade(FCN, POINT, test_cfg=dict(mode='whole', **settings), train_cfg=ConfigDict(train))


def ddrnet():
    head = dict(type=DDRHead, in_channels=16, channels=8, num_classes=3, loss_decode=[CE, CE])
    return segmentor(head, dict(type=DDRNet, channels=4, ppm_channels=4))


def pidnet():
    losses = [CE, CE, dict(type='BoundaryLoss'), OHEM]
    head = dict(type=PIDHead, in_channels=16, channels=8, num_classes=3, loss_decode=losses)
    backbone = dict(type=PIDNet, channels=4, ppm_channels=4, num_stem_blocks=1, num_branch_blocks=1)
    return segmentor(head, backbone)


#: Networks whose logits are those of the loss with this key.
NETWORKS = {
    'ocrnet': (lambda: cascade(FCN, OCR), 'decode_1.loss_ce'),
    'three heads': (lambda: cascade(FCN, OCR, OCR, auxiliary_head=FCN), 'decode_2.loss_ce'),
    'danet': (
        lambda: segmentor(dict(type=DAHead, in_channels=32, pam_channels=4, **COMMON)),
        'decode.pam_cam.loss_ce',
    ),
    'encnet': (
        lambda: segmentor(
            dict(type=EncHead, in_channels=[8, 16, 32], in_index=(1, 2, 3), num_codes=4, **COMMON)
        ),
        'decode.loss_ce',
    ),
    'knet': (
        lambda: segmentor(
            dict(
                type=IterativeDecodeHead,
                num_stages=2,
                kernel_update_head=[KERNELS] * 2,
                kernel_generate_head=FCN,
            )
        ),
        'decode.loss_ce.s2',
    ),
    'ddrnet': (ddrnet, 'decode.loss_context'),
    'pidnet': (pidnet, 'decode.loss_sem_i'),
}


@pytest.fixture
def inputs():
    return torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def samples():
    generator = torch.Generator().manual_seed(2)
    meta = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), SIZE)
    masks = torch.randint(3, (2, *SIZE), generator=generator)
    return [
        SegDataSample(
            metainfo=meta,
            gt_sem_seg=PixelData(data=mask[None]),
            gt_edge_map=PixelData(data=(mask[None] == 1).long()),
        )
        for mask in masks
    ]


@pytest.fixture(params=NETWORKS)
def kind(request):
    return request.param


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(torch.as_tensor(value), torch.as_tensor(expected[key]))
        for key, value in found.items()
    )


def gradients(member, losses):
    sum(value for key, value in losses.items() if 'loss' in key).backward()
    return {name: p.grad for name, p in member.named_parameters() if p.grad is not None}


def test_training_step_is_that_of_mmseg(kind, inputs, samples):
    build, key = NETWORKS[kind]
    member = build().train()
    twin = copy.deepcopy(member)
    torch.manual_seed(7)
    expected = twin.loss(inputs, samples)
    torch.manual_seed(7)
    losses, logits = TASK.training_step(member, inputs, samples)
    assert same(losses, expected)
    assert same(gradients(member, losses), gradients(twin, expected))
    assert same(member.state_dict(), twin.state_dict())
    # The logits are those that the loss of the predicting output compares with the masks.
    resized = F.interpolate(logits, SIZE, mode='bilinear', align_corners=member.align_corners)
    reference = F.cross_entropy(resized, TASK.truth(samples))
    torch.testing.assert_close(losses[key], reference.expand_as(losses[key]))


def test_logits_are_those_of_the_prediction(kind, inputs):
    member = NETWORKS[kind][0]().eval()
    logits = TASK.logits(member, inputs)
    resized = F.interpolate(logits, SIZE, mode='bilinear', align_corners=member.align_corners)
    for sample, expected in zip(TASK.predict(member, inputs, None), resized, strict=True):
        torch.testing.assert_close(sample.seg_logits.data, expected)


def classroom(teacher, student, *knowledge):
    return KnowledgeDistiller(
        members=dict(teacher=teacher, student=student),
        transfers=[Transfer('teacher', 'student', one, 1.0) for one in knowledge],
        frozen=dict(teacher=None),
        input_size=SIZE,
    )


def pairs(build):
    """Networks as teacher and as student of an FCN."""
    return (build(), segmentor(FCN)), (segmentor(FCN), build())


def test_cascade_teaches_and_learns(inputs, samples):
    for teacher, student in pairs(lambda: cascade(FCN, OCR)):
        both = classroom(teacher, student, 'predictions', 'features')
        losses = both(inputs, samples, mode='loss')
        assert losses['student.loss_from_teacher.predictions'].requires_grad
        assert losses['student.loss_from_teacher.features'].requires_grad


def test_default_tap_is_the_map_that_is_decoded(inputs, samples):
    student = pidnet()
    losses = classroom(pidnet(), student, 'features')(inputs, samples, mode='loss')
    assert losses['student.loss_from_teacher.features'].requires_grad
    tap = TASK.default_tap(student)
    with TapRecorder(student.eval(), [tap]) as taps:
        maps = student.backbone(inputs)
    assert torch.equal(taps[tap], maps)


def test_point_sampling_shares_features_but_no_logits(inputs, samples):
    for teacher, student in pairs(point_rend):
        losses = classroom(teacher, student, 'features')(inputs, samples, mode='loss')
        assert losses['student.loss_from_teacher.features'].requires_grad
        with pytest.raises(ValueError, match=r'Invalid head of .*single tensor of logits'):
            classroom(teacher, student, 'predictions')
