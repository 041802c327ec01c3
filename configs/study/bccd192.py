"""KD+ML v1 with small ATSS detectors on BCCD, the longer side 192 pixels; base of the study."""

from mmdet.models import FPN, ATSSHead, ResNet
from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR
from torch.optim import AdamW

from mmkdml.models import DiversifiedKDMLDistiller

with read_base():
    from .._base_.datasets.bccd import *
    from .._base_.networks.atss import atss_resnet50, data_preprocessor
    from .._base_.schedules.adam_30e import *

small_teacher = dict(
    atss_resnet50,
    backbone=dict(type=ResNet, depth=18, stem_channels=32, base_channels=32),
    neck=dict(
        type=FPN,
        in_channels=[32, 64, 128, 256],
        out_channels=64,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=4,
    ),
    bbox_head=dict(
        atss_resnet50['bbox_head'],
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(
            atss_resnet50['bbox_head']['anchor_generator'],
            octave_base_scale=4,
            strides=[8, 16, 32, 64],
        ),
    ),
)
small_teacher.pop('data_preprocessor')
small_student = dict(
    small_teacher,
    backbone=dict(type=ResNet, depth=18, stem_channels=16, base_channels=16),
    neck=dict(small_teacher['neck'], in_channels=[16, 32, 64, 128]),
)

model = dict(
    type=DiversifiedKDMLDistiller,
    mode='kdml',
    style='v1',
    teacher=small_teacher,
    students=[small_student, small_student],
    input_size=(144, 192),
    data_preprocessor=data_preprocessor,
    weights=dict(alpha=(0.4, 0.4), beta=(0.3, 0.3), gamma=(0.3, 0.3)),
)

# Networks without pretrained weights need a higher learning rate.
optim_wrapper['optimizer'] = dict(type=AdamW, lr=2e-3, weight_decay=0.05)
optim_wrapper['clip_grad'] = dict(max_norm=35)
train_cfg.update(max_epochs=8, val_interval=4)
param_scheduler = dict(type=CosineAnnealingLR, T_max=8, eta_min=2e-5)
train_dataloader.update(num_workers=0, persistent_workers=False)
val_dataloader.update(num_workers=0, persistent_workers=False)
test_dataloader.update(num_workers=0, persistent_workers=False)
