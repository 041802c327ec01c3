from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmpretrain.models import ImageClassifier
from mmseg.models import EncoderDecoder

from mmkdml.inspection import without_pretrained
from mmkdml.models.tap_presets import (
    ALL_WITH_ALL,
    METHODS,
    MOBILENETV1_LOW_AND_HIGH,
    MOBILENETV1_STAGES,
    RESNET_LOW_AND_HIGH,
    RESNET_STAGES,
    UNET_BLOCKS,
    UNET_DSD,
    suggested_taps,
)
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import ClassificationTask, SegmentationTask, detection_task
from mmkdml.registry import MODELS

NETWORKS = Path(__file__).parents[2] / 'configs' / '_base_' / 'networks'
CLASSIFIERS = ('resnet50_for_resnet18', 'resnet50_for_mobilenet', 'resnet18', 'mobilenet')
UNETS = ('unet_resnet50', 'unet_resnet18', 'unet_mobilenet')
TASKS = {'classification': ClassificationTask(), 'segmentation': SegmentationTask()}
# Strides of the taps of each method.
STRIDES = {
    'classification': {
        **dict.fromkeys(('at', 'vid', 'semckd'), [4, 8, 16, 32]),
        **dict.fromkeys(('sp', 'srrl', 'simkd', 'mgd', 'pkd'), [32]),
        'fitnet': [4],
    },
    'segmentation': {
        **dict.fromkeys(('fitnet', 'at', 'ifvd', 'cwd'), [1]),
        'skd': [8],
        'dsd': [4, 1, 1],
        'emkd': [2, 8],
        'mgd': [32],
        'pkd': [16, 8, 4, 2, 1],
    },
    'detection': dict.fromkeys(('fgd', 'pkd', 'cwd', 'mgd', 'fitnet'), [8, 16, 32, 64, 128]),
}


@pytest.fixture(scope='module')
def network():
    """The paper's networks, without weights."""
    built = {}

    def get(name):
        if name not in built:
            file = 'unets' if name in UNETS else 'classifiers'
            config = Config.fromfile(NETWORKS / f'{file}.py')[name]
            built[name] = MODELS.build(without_pretrained(config))
        return built[name]

    return get


def classifier(**backbone):
    head = dict(type='mmpretrain.LinearClsHead', num_classes=2, in_channels=512)
    neck = dict(type='mmpretrain.GlobalAveragePooling')
    return ImageClassifier(backbone=backbone, neck=neck, head=head)


def dilated_fcn(dropout_ratio):
    backbone = dict(type='mmseg.ResNetV1c', depth=18, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))
    head = dict(type='mmseg.FCNHead', in_channels=512, in_index=3, channels=16, num_classes=3)
    return EncoderDecoder(backbone=backbone, decode_head=dict(head, dropout_ratio=dropout_ratio))


def names_of(suggestion):
    return [suggestion] if isinstance(suggestion, str) else suggestion


def recorded(member, names, size=64):
    """Record the taps in training mode, in which in-place changes raise."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with TapRecorder(member.train(), names) as taps:
        member(images, mode='tensor')
    return taps


@pytest.mark.parametrize(
    ('name', 'task', 'method'),
    [
        (name, task, method)
        for names, task in ((CLASSIFIERS, 'classification'), (UNETS, 'segmentation'))
        for name in names
        for method in STRIDES[task]
    ],
)
def test_taps_of_the_papers_networks_have_the_documented_strides(network, name, task, method):
    member = network(name)
    names = names_of(suggested_taps(method, member, TASKS[task]))
    taps = recorded(member, names)
    assert [64 // taps[tap].shape[-1] for tap in names] == STRIDES[task][method]
    assert [tap for tap in taps.order if tap in names] == names  # in the order of the layers
    assert all(taps[tap].requires_grad for tap in names)


@pytest.mark.parametrize('method', STRIDES['detection'])
def test_taps_of_detectors_are_all_levels(detector, method):
    names = suggested_taps(method, detector('atss'), detection_task())
    member = detector('atss')
    with TapRecorder(member, names) as taps:
        member.extract_feat(torch.rand(1, 3, 128, 128))
    assert [128 // taps[name].shape[-1] for name in names] == STRIDES['detection'][method]


def test_detectors_without_a_pyramid_or_with_other_methods_raise(detector):
    member = detector('atss')
    with pytest.raises(ValueError, match="'at', which is only for classification and segm"):
        suggested_taps('at', member, detection_task())
    del member.neck
    with pytest.raises(ValueError, match='with a feature pyramid, such as FPN, got no neck'):
        suggested_taps('fgd', member, detection_task())


def test_all_methods_are_tested():
    assert {task: set(methods) for task, methods in METHODS.items()} == {
        task: set(methods) for task, methods in STRIDES.items()
    }
    assert set(ALL_WITH_ALL) <= set(METHODS['classification'])


def test_constants_equal_suggestions_for_the_papers_networks(network):
    def suggested(method, name, task):
        return suggested_taps(method, network(name), TASKS[task])

    for method in ('at', 'vid', 'semckd'):
        assert tuple(suggested(method, 'resnet18', 'classification')) == RESNET_STAGES
        assert tuple(suggested(method, 'mobilenet', 'classification')) == MOBILENETV1_STAGES
    # The last stage of a teacher ends with its additional block.
    teacher = 'resnet50_for_resnet18', 'classification'
    assert suggested('at', *teacher) == [*RESNET_STAGES[:3], 'neck.conv_block']
    assert suggested('sp', *teacher) == 'neck.conv_block'
    assert suggested('fitnet', *teacher) == RESNET_STAGES[0]
    for name, low_and_high in (
        ('unet_resnet50', RESNET_LOW_AND_HIGH),
        ('unet_mobilenet', MOBILENETV1_LOW_AND_HIGH),
    ):
        assert tuple(suggested('emkd', name, 'segmentation')) == low_and_high
        assert tuple(suggested('dsd', name, 'segmentation')) == UNET_DSD
        assert suggested('skd', name, 'segmentation') == UNET_BLOCKS[1]
        assert suggested('cwd', name, 'segmentation') == UNET_BLOCKS[-1]
        assert suggested('pkd', name, 'segmentation') == list(UNET_BLOCKS)
    assert suggested('mgd', 'unet_resnet50', 'segmentation') == RESNET_STAGES[-1]
    assert suggested('mgd', 'unet_mobilenet', 'segmentation') == MOBILENETV1_STAGES[-1]


def test_low_layer_of_emkd_is_after_the_activation(network):
    for name in UNETS:
        low = names_of(suggested_taps('emkd', network(name), TASKS['segmentation']))[0]
        assert recorded(network(name), [low])[low].min() == 0


def test_deep_stem_and_head_with_dropout():
    member, task = dilated_fcn(0.5), TASKS['segmentation']
    assert suggested_taps('emkd', member, task) == ['backbone.stem', 'backbone.layer2']
    for method in ('fitnet', 'at', 'skd', 'ifvd', 'cwd'):
        assert suggested_taps(method, member, task) == 'decode_head.dropout'
    assert suggested_taps('pkd', member, task) == ['decode_head.dropout']
    # dsd compares only the last map and the logits if there is no earlier map.
    assert suggested_taps('dsd', member, task) == ['decode_head.dropout', 'decode_head.conv_seg']
    inputs_of_classifier = []
    handle = member.decode_head.conv_seg.register_forward_pre_hook(
        lambda _, x: inputs_of_classifier.append(x[0])
    )
    taps = recorded(member, ['backbone.stem', 'decode_head.dropout'])
    handle.remove()
    assert taps['decode_head.dropout'] is inputs_of_classifier[0]
    assert taps['backbone.stem'].shape[2:] == (32, 32)
    assert taps['backbone.stem'].min() == 0


def test_unet_of_another_depth():
    member = EncoderDecoder(
        backbone=dict(type='mmkdml.StemResNet', depth=18, out_indices=(0, 1, 2)),
        decode_head=dict(
            type='mmkdml.UNetHead',
            in_channels=[64, 64, 128, 256],
            widths=[32, 16, 8, 4],
            num_classes=3,
        ),
    )
    names = [suggested_taps('skd', member, TASKS['segmentation'])]
    names += suggested_taps('dsd', member, TASKS['segmentation'])
    assert names == [f'decode_head.{name}' for name in ('blocks.0', 'blocks.1', 'blocks.3')] + [
        'decode_head.conv_seg'
    ]
    taps = recorded(member, names)
    assert [64 // taps[name].shape[-1] for name in names] == [8, 4, 1, 1]


@pytest.mark.parametrize('name', ['resnet18', 'mobilenetv2_100', 'efficientnet_b0'])
@pytest.mark.parametrize('options', [{}, dict(features_only=True)])
def test_timm_networks(name, options):
    member = classifier(type='mmkdml.PretrainedTIMMBackbone', model_name=name, **options)
    names = suggested_taps('at', member, TASKS['classification'])
    assert suggested_taps('fitnet', member, TASKS['classification']) == names[0]
    with TapRecorder(member, names) as taps:
        member.backbone(torch.randn(2, 3, 64, 64))
    assert [64 // taps[tap].shape[-1] for tap in names] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    'backbone',
    [
        dict(type='mmpretrain.VGG', depth=11, norm_cfg=dict(type='BN')),
        # All blocks have the same stride.
        dict(type='mmkdml.PretrainedTIMMBackbone', model_name='vit_tiny_patch16_224'),
    ],
)
@pytest.mark.parametrize('method', ['at', 'fitnet'])
def test_backbone_without_stages_raises(backbone, method):
    member = classifier(**backbone)
    with pytest.raises(
        ValueError,
        match=f'Invalid backbone: .*ResNet.*got {type(member.backbone).__name__}.*list_taps.py '
        'without --method',
    ):
        suggested_taps(method, member, TASKS['classification'])
    assert suggested_taps('sp', member, TASKS['classification']) == 'backbone'


@pytest.mark.parametrize('method', ['at', 'skd', 'dsd'])
def test_head_without_dropout_raises(method):
    with pytest.raises(
        ValueError, match='Invalid head: .*dropout_ratio > 0, got FCNHead.*without --method'
    ):
        suggested_taps(method, dilated_fcn(0), TASKS['segmentation'])


@pytest.mark.parametrize('task', TASKS)
def test_method_of_the_other_task_and_unknown_method_raise(task, network):
    member = network('resnet18' if task == 'classification' else 'unet_resnet18')
    other = {'classification': 'segmentation', 'segmentation': 'classification'}[task]
    known = ', '.join(METHODS[task])
    foreign = set(METHODS[other]) - set(METHODS[task])
    assert len(foreign) == 5
    for method in foreign:
        with pytest.raises(
            ValueError,
            match=f"method must be one of {known} for {task}, got '{method}'.*only for {other}",
        ):
            suggested_taps(method, member, TASKS[task])
    with pytest.raises(
        ValueError, match=f"method must be one of {known} for {task}, got 'atz'. For other taps"
    ):
        suggested_taps('atz', member, TASKS[task])
