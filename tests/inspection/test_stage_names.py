import pytest
from mmengine.config import Config
from mmpretrain.models import (
    VGG,
    ConvNeXt,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    ResNet,
    TimmClassifier,
    VisionTransformer,
)

from mmkdml.inspection.stage_names import outputs_of_stages, stage_labels, stage_of_layers
from mmkdml.inspection.taps_listing import TapRow, tap_rows
from mmkdml.models import PretrainedTIMMBackbone
from mmkdml.models.tasks import task_of
from mmkdml.registry import MODELS

SIZE = (64, 64)


def rows_of(backbone, channels, neck=None):
    head = dict(type=LinearClsHead, num_classes=3, in_channels=channels)
    network = MODELS.build(dict(type=ImageClassifier, backbone=backbone, neck=neck, head=head))
    return tap_rows(network, task_of({'one': network}), SIZE)


POOL = dict(type=GlobalAveragePooling)
BOTTLENECKS = dict(type=ResNet, depth=50, base_channels=2, stem_channels=2)
DILATED = dict(
    type=ResNet, depth=18, base_channels=2, stem_channels=2, strides=(1, 2, 1, 1),
    dilations=(1, 1, 2, 4),
)  # fmt: skip


@pytest.mark.parametrize(
    ('backbone', 'channels', 'neck', 'modules'),
    [
        (BOTTLENECKS, 64, POOL, ['relu', 'layer1', 'layer2', 'layer3', 'layer4']),
        # Stages of one resolution differ in channels.
        (DILATED, 16, POOL, ['relu', 'layer1', 'layer2', 'layer3', 'layer4']),
        (
            dict(type=PretrainedTIMMBackbone, model_name='mobilenetv1_100'),
            1024,
            POOL,
            [f'timm_model.blocks.{index}' for index in range(5)],
        ),
        (dict(type=ConvNeXt, arch='atto'), 320, None, [f'stages.{index}' for index in range(4)]),
        (dict(type=VGG, depth=11), 512, POOL, [f'features.{index}' for index in (2, 5, 8, 11)]),
    ],
    ids=['resnet', 'dilated', 'timm', 'convnext', 'vgg'],
)
def test_stages_of_backbones(backbone, channels, neck, modules):
    rows = rows_of(backbone, channels, neck)
    outputs = outputs_of_stages(rows, SIZE)
    assert outputs == [*(f'backbone.{name}' for name in modules), 'head.fc']
    stages = stage_of_layers(rows, SIZE)
    numbered = [f'stage {index}' for index in range(1, 5)]
    first = [] if backbone['type'] is ConvNeXt else ['stem']
    last = 4 if len(outputs) - len(first) > 4 else 3
    assert [stages[name] for name in outputs] == [*first, *numbered[:last], 'logits']


def test_blocks_of_a_transformer():
    rows = rows_of(dict(type=VisionTransformer, arch='deit-tiny', img_size=64), 192)
    outputs = outputs_of_stages(rows, SIZE)
    labels = list(stage_labels(rows, outputs, SIZE).values())
    assert labels == [*(f'block {index} (192 ch)' for index in range(1, 13)), 'logits']


def test_labels():
    rows = rows_of(BOTTLENECKS, 64, POOL)
    layers = ['conv1', 'maxpool', 'layer2', 'layer2.0.conv1', 'layer2.3']
    labels = stage_labels(rows, [f'backbone.{name}' for name in layers], SIZE)
    assert list(labels.values()) == [
        'stem: conv1 (2 ch, 1/2)',
        'backbone.maxpool (2 ch, 1/4)',
        'stage 2 (16 ch, 1/8)',
        'stage 2: 0.conv1 (4 ch, 1/4)',  # the stride of a bottleneck is in its second layer
        'stage 2: 3 (16 ch, 1/8)',
    ]


def test_decoder_and_neck():
    model = Config.fromfile('configs/demo/kdml_v3_demo.py').model
    network = MODELS.build(dict(model.students[0], data_preprocessor=model.data_preprocessor))
    rows = tap_rows(network, task_of({'one': network}), SIZE)
    stages = stage_of_layers(rows, SIZE)
    assert [stages[f'decode_head.blocks.{index}'] for index in range(5)] == [
        f'decoder {index}' for index in range(1, 6)
    ]
    assert stages['decode_head.conv_seg'] == 'logits'
    block = [
        TapRow('neck.block', 'ConvModule', (1, 8, 4, 4)),
        TapRow('neck.pool', 'AvgPool2d', (1, 8)),
    ]
    assert stage_of_layers(block, SIZE) == {'neck.block': 'neck'}


def test_stages_of_a_classifier_of_timm():
    loss = dict(type='CrossEntropyLoss')
    resnet = TimmClassifier(model_name='resnet10t', num_classes=3, loss=loss)
    rows = tap_rows(resnet, task_of({'one': resnet}), SIZE)
    stages = [f'model.layer{index}' for index in range(1, 5)]
    assert outputs_of_stages(rows, SIZE) == ['model.act1', *stages, 'model.fc']
    labels = stage_labels(rows, ['model.layer2', 'model.fc'], SIZE)
    assert labels == {'model.layer2': 'stage 2 (128 ch, 1/8)', 'model.fc': 'logits'}


def test_channels_last_stages_are_labeled_like_maps():
    swin = TimmClassifier(
        model_name='swin_tiny_patch4_window7_224', num_classes=3, img_size=64, window_size=4,
        embed_dim=8, depths=(1, 1), num_heads=(1, 2), loss=dict(type='CrossEntropyLoss'),
    )  # fmt: skip
    rows = tap_rows(swin, task_of({'one': swin}), SIZE)
    layers = ['model.layers.0', 'model.layers.1']
    labels = ['stage 1 (8 ch, 1/4)', 'stage 2 (16 ch, 1/8)']
    assert list(stage_labels(rows, layers, SIZE).values()) == labels


def test_levels_of_a_detector(detector):
    member, size = detector('atss'), (144, 192)
    rows = tap_rows(member, task_of({'one': member}), size)
    levels = [f'neck.fpn_convs.{index}' for index in range(5)]
    stages = [f'backbone.layer{index}' for index in range(1, 5)]
    # No layer of the head runs once for all levels.
    assert outputs_of_stages(rows, size) == ['backbone.relu', *stages, *levels]
    labels = stage_labels(rows, [stages[-1], *levels, 'neck.lateral_convs.0'], size)
    assert list(labels.values()) == [
        'stage 4 (64 ch, 1/32)',  # 5 rows for an image of 144, which is not a multiple of 32
        *(f'level {index + 1} (32 ch, 1/{8 * 2**index})' for index in range(5)),
        'neck.lateral_convs.0 (32 ch, 1/8)',
    ]
