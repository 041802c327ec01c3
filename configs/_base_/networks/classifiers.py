"""Classifiers of the paper (Table 6): two classes, ImageNet weights.

A teacher has an additional 1x1 block with the channels of its students' last map, so that their
features have the same shape. All members use the normalization of ImageNet ResNets; timm trained
MobileNet with mean and standard deviation 0.5, which fine-tuning compensates.
"""

from mmpretrain.models import (
    ClsDataPreprocessor,
    CrossEntropyLoss,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    ResNet,
)

from mmkdml.models import ConvBlockNeck, PretrainedTIMMBackbone

data_preprocessor = dict(
    type=ClsDataPreprocessor,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)

resnet50 = dict(
    type=ImageClassifier,
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type=ResNet, depth=50, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')
    ),
    neck=dict(type=GlobalAveragePooling),
    head=dict(
        type=LinearClsHead, num_classes=2, in_channels=2048, loss=dict(type=CrossEntropyLoss)
    ),
)
resnet50_for_resnet18 = dict(
    resnet50,
    neck=dict(type=ConvBlockNeck, in_channels=2048, out_channels=512),
    head=dict(resnet50['head'], in_channels=512),
)
resnet50_for_mobilenet = dict(
    resnet50,
    neck=dict(type=ConvBlockNeck, in_channels=2048, out_channels=1024),
    head=dict(resnet50['head'], in_channels=1024),
)
resnet18 = dict(
    resnet50,
    backbone=dict(
        type=ResNet, depth=18, init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18')
    ),
    head=dict(resnet50['head'], in_channels=512),
)
mobilenet = dict(
    resnet50,
    backbone=dict(type=PretrainedTIMMBackbone, model_name='mobilenetv1_100', pretrained=True),
    head=dict(resnet50['head'], in_channels=1024),
)
