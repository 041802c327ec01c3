"""Tiny networks and batches of the tasks."""

import copy
import functools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config, ConfigDict
from mmengine.optim import OptimWrapper
from mmengine.structures import InstanceData, PixelData
from mmpretrain.models import (
    CrossEntropyLoss,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    ResNet,
)
from mmpretrain.structures import DataSample
from mmseg.models import EncoderDecoder, FCNHead, PSPHead, ResNetV1c
from mmseg.models.losses import CrossEntropyLoss as SegCrossEntropy
from mmseg.structures import SegDataSample

from mmkdml.models import (
    BinaryLinearClsHead,
    ConvBlockNeck,
    FocalDiceLoss,
    KnowledgeDistiller,
    SimKDNeck,
    StemResNet,
    Transfer,
    UNetHead,
)
from mmkdml.models.tasks import detection_task
from mmkdml.registry import MODELS

SIZE = 32
METHODS_SIZE = 64  # smallest logits of the discriminator
METHODS = Path(__file__).parents[3] / 'configs' / '_base_' / 'methods'
CLASSIFICATION, SEGMENTATION = (
    tuple(sorted(path.stem for path in METHODS.glob(f'*{task}.py')))
    for task in ('classification', 'segmentation')
)
ADVERSARIAL = 'skd_adversarial_segmentation'  # a config combines it from two bases
SEGMENTATION += (ADVERSARIAL,)


def classifier(width=4, num_classes=3, block=None, **head):
    """ResNet18 with few channels, 8 * width in the last map."""
    channels = 8 * width
    neck = dict(type=GlobalAveragePooling)
    if block is not None:
        neck = dict(type=ConvBlockNeck, in_channels=channels, out_channels=block)
    return dict(
        type=ImageClassifier,
        backbone=dict(type=ResNet, depth=18, base_channels=width, stem_channels=width),
        neck=neck,
        head=dict(
            type=LinearClsHead,
            num_classes=num_classes,
            in_channels=block or channels,
            loss=dict(type=CrossEntropyLoss),
            **head,
        ),
    )


def segmentor(width=4, out_channels=1, first=16, **head):
    """U-Net with few channels, ``first`` in the shared map."""
    return dict(
        type=EncoderDecoder,
        backbone=dict(type=StemResNet, depth=18, base_channels=width, stem_channels=width),
        decode_head=dict(
            type=UNetHead,
            in_channels=[width, width, 2 * width, 4 * width, 8 * width],
            widths=[first, 8, 8, 4, 4],
            num_classes=max(out_channels, 2),
            out_channels=out_channels,
            loss_decode=dict(type=FocalDiceLoss),
            **head,
        ),
        test_cfg=ConfigDict(mode='whole'),
    )


def mmseg_pair():
    """Networks of mmseg: teacher with PSP head and student with FCN heads."""
    loss = dict(type=SegCrossEntropy)
    backbone = dict(
        type=ResNetV1c,
        depth=18,
        stem_channels=8,
        base_channels=8,
        strides=(1, 2, 1, 1),
        dilations=(1, 1, 2, 4),
    )
    common = dict(num_classes=3, norm_cfg=dict(type='BN'), loss_decode=loss)
    teacher = dict(
        type=EncoderDecoder,
        backbone=backbone,
        test_cfg=dict(mode='whole'),
        decode_head=dict(type=PSPHead, in_channels=64, channels=16, **common),
    )
    student = dict(
        type=EncoderDecoder,
        backbone=backbone,
        test_cfg=dict(mode='whole'),
        decode_head=dict(type=FCNHead, in_channels=64, channels=8, **common),
        auxiliary_head=[
            dict(type=FCNHead, in_channels=32, in_index=2, channels=8, **common),
            dict(type=FCNHead, in_channels=16, in_index=1, channels=8, **common),
        ],
    )
    return teacher, student


def images(number=4, seed=0):
    return torch.randn(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed))


def class_samples(number=4, num_classes=3):
    return [DataSample().set_gt_label(i % num_classes) for i in range(number)]


def mask_samples(number=4, num_classes=2, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return as_samples(torch.randint(num_classes, (number, SIZE, SIZE), generator=generator))


def compared_members(method, classes):
    """Tiny teacher and student for a method; ``classes=1`` means one logit."""
    if method in SEGMENTATION:
        return dict(
            teacher=segmentor(width=6, out_channels=classes),
            student=segmentor(out_channels=classes),
        )
    members = dict(
        teacher=classifier(width=6, num_classes=max(classes, 2), block=32),
        student=classifier(num_classes=max(classes, 2)),
    )
    if method == 'simkd_classification':
        members['student']['neck'] = dict(type=SimKDNeck, in_channels=32, out_channels=32)
    if classes == 1:
        for member in members.values():
            member['head'] = dict(
                type=BinaryLinearClsHead, in_channels=member['head']['in_channels']
            )
    return members


def method_settings(method):
    """Return the classroom settings in the config of a method."""
    model = Config.fromfile(METHODS / f'{method.replace("_adversarial", "")}.py').model
    if method == ADVERSARIAL:
        holistic = Config.fromfile(METHODS / 'discriminator.py').holistic
        holistic['loss']['width'] = 8  # instead of 64, to save time
        model['transfers'].append(holistic)
    return dict(model)


def compared(method, classes=3, **changes):
    """Classroom with the config of a method, but tiny networks."""
    if changes:
        return build_compared(method, classes, **changes)
    built, state = built_once(method, classes, torch.get_rng_state().numpy().tobytes())
    torch.set_rng_state(state)
    return copy.deepcopy(built)


@functools.cache
def built_once(method, classes, state):
    """Return what is built from a state of the random numbers, and their state afterwards."""
    return build_compared(method, classes), torch.get_rng_state()


def build_compared(method, classes, **changes):
    own = dict(
        members=compared_members(method, classes),
        frozen=dict(teacher=None),
        input_size=(METHODS_SIZE, METHODS_SIZE),
        data_preprocessor=None,
    )
    return MODELS.build({**method_settings(method), **own, **changes})


def compared_batch(method, number=2, classes=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(number, 3, METHODS_SIZE, METHODS_SIZE, generator=generator)
    if method in SEGMENTATION:
        masks = torch.randint(max(classes, 2), (number, *inputs.shape[2:]), generator=generator)
        return inputs, as_samples(masks)
    return inputs, class_samples(number, max(classes, 2))


def as_samples(masks):
    """Convert masks (N, H, W) to samples."""
    size = dict.fromkeys(('ori_shape', 'img_shape', 'pad_shape'), tuple(masks.shape[1:]))
    return [
        SegDataSample(gt_sem_seg=PixelData(data=mask.unsqueeze(0)), metainfo=size) for mask in masks
    ]


def optimized(losses):
    """Return the sum that mmengine minimizes; detectors have one loss per level."""
    return sum(added(value) for key, value in losses.items() if 'loss' in key)


def added(loss):
    return (
        sum(part.mean() for part in loss)
        if isinstance(loss, list)
        else torch.as_tensor(loss).mean()
    )


def pair(task, transfers, **kwargs):
    """Teacher and student with transfers (knowledge, weight)."""
    return KnowledgeDistiller(
        members=dict(teacher=task.teacher(), student=task.student()),
        transfers=[Transfer('teacher', 'student', kind, weight) for kind, weight in transfers],
        input_size=(32, 32),
        **kwargs,
    )


def train(model, batches, seed=3):
    wrapper = OptimWrapper(torch.optim.Adam(model.parameters(), lr=1e-2))
    model.train()
    torch.manual_seed(seed)
    for inputs, samples in batches:
        losses = model(inputs, samples, mode='loss')
        wrapper.update_params(model.parse_losses(losses)[0])
    return model.state_dict()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def tiny():
    return SimpleNamespace(
        size=(SIZE, SIZE),
        classifier=classifier,
        segmentor=segmentor,
        mmseg_pair=mmseg_pair,
        images=images,
        class_samples=class_samples,
        mask_samples=mask_samples,
        pair=pair,
        train=train,
        method_settings=method_settings,
        compared=compared,
        compared_members=compared_members,
        compared_batch=compared_batch,
        as_samples=as_samples,
        optimized=optimized,
        added=added,
    )


def box_samples(number=4, seed=1):
    """Samples with 0 to 3 boxes; the first image has none."""
    generator = torch.Generator().manual_seed(seed)
    samples = detection_task().dummy_samples(number, (SIZE, SIZE))
    for index, sample in enumerate(samples):
        first = torch.rand(index % 4, 2, generator=generator) * SIZE / 2
        sides = 4 + torch.rand(index % 4, 2, generator=generator) * (SIZE / 2 - 4)
        sample.gt_instances = InstanceData(
            bboxes=torch.cat([first, first + sides], 1),
            labels=torch.randint(3, (index % 4,), generator=generator),
        )
    return samples


@pytest.fixture(params=['classification', 'segmentation', 'detection'])
def task(request):
    """Teacher, student and batch of each task."""
    if request.param == 'classification':
        return SimpleNamespace(
            name=request.param,
            teacher=lambda: classifier(width=6, block=32),
            student=classifier,
            batch=lambda number=4: (images(number), class_samples(number)),
            member_losses=('loss',),
        )
    if request.param == 'detection':
        published = request.getfixturevalue('detector').config

        def config(**settings):
            built = published(**settings)
            del built['data_preprocessor']
            return built

        return SimpleNamespace(
            name=request.param,
            teacher=lambda: config(width=12),
            student=config,
            batch=lambda number=4: (images(number), box_samples(number)),
            member_losses=('loss_cls', 'loss_bbox', 'loss_centerness'),
        )
    return SimpleNamespace(
        name=request.param,
        teacher=lambda: segmentor(width=6),
        student=segmentor,
        batch=lambda number=4: (images(number), mask_samples(number)),
        member_losses=('decode.loss_focal_dice',),
    )
