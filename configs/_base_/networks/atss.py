"""ATSS of mmdet with ResNets and ImageNet weights, for three classes as in BCCD."""

from mmdet.models import ATSS, FPN, ATSSHead, DetDataPreprocessor, ResNet
from mmdet.models.losses import CrossEntropyLoss, FocalLoss, GIoULoss
from mmdet.models.task_modules import (
    AnchorGenerator,
    ATSSAssigner,
    DeltaXYWHBBoxCoder,
    PseudoSampler,
)

data_preprocessor = dict(
    type=DetDataPreprocessor,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)

atss_resnet50 = dict(
    type=ATSS,
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type=ResNet,
        depth=50,
        frozen_stages=1,
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50'),
    ),
    neck=dict(
        type=FPN,
        in_channels=[256, 512, 1024, 2048],
        out_channels=256,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=5,
    ),
    bbox_head=dict(
        type=ATSSHead,
        num_classes=3,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(
            type=AnchorGenerator,
            ratios=[1.0],
            octave_base_scale=8,
            scales_per_octave=1,
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(
            type=DeltaXYWHBBoxCoder,
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[0.1, 0.1, 0.2, 0.2],
        ),
        loss_cls=dict(type=FocalLoss, use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type=GIoULoss, loss_weight=2.0),
        loss_centerness=dict(type=CrossEntropyLoss, use_sigmoid=True, loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type=ATSSAssigner, topk=9),
        sampler=dict(type=PseudoSampler),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
    ),
)
atss_resnet18 = dict(
    atss_resnet50,
    backbone=dict(
        atss_resnet50['backbone'],
        depth=18,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
    ),
    neck=dict(atss_resnet50['neck'], in_channels=[64, 128, 256, 512]),
)
