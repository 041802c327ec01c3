"""KD+ML v3 with small U-Nets on synthetic slices; `make demo` runs it in minutes on a CPU."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR
from mmseg.models import EncoderDecoder

from mmkdml.models import DiversifiedKDMLDistiller, FocalDiceLoss, StemResNet, UNetHead

with read_base():
    from .._base_.datasets.lgg import *
    from .._base_.networks.unets import data_preprocessor
    from .._base_.schedules.adam_30e import *

small_teacher = dict(
    type=EncoderDecoder,
    backbone=dict(type=StemResNet, depth=18, stem_channels=24, base_channels=24),
    decode_head=dict(
        type=UNetHead,
        in_channels=[24, 24, 48, 96, 192],
        widths=[64, 32, 24, 16, 16],
        num_classes=2,
        out_channels=1,
        loss_decode=dict(type=FocalDiceLoss),
    ),
    test_cfg=dict(mode='whole'),
)
small_student = dict(
    small_teacher,
    backbone=dict(type=StemResNet, depth=18, stem_channels=12, base_channels=12),
    decode_head=dict(
        small_teacher['decode_head'], in_channels=[12, 12, 24, 48, 96], widths=[64, 32, 16, 8, 8]
    ),
)

model = dict(
    type=DiversifiedKDMLDistiller,
    mode='kdml',
    style='v3',
    teacher=small_teacher,
    students=[small_student, small_student],
    input_size=(64, 64),
    data_preprocessor=data_preprocessor,
    weights=dict(alpha=(0.4, 0.4), beta=(0.3, 0.3), gamma=(0.3, 0.3)),
)

# Networks without pretrained weights need a higher learning rate.
optim_wrapper['optimizer'].update(lr=2e-3)
train_cfg.update(max_epochs=24)
param_scheduler = dict(type=CosineAnnealingLR, T_max=24, eta_min=1e-5)

train_pipeline[2].update(scale=(64, 64))
test_pipeline[1].update(scale=(64, 64))
data_root = 'data/demo/kaggle_3m'
train_dataloader['dataset'].update(
    data_root=data_root, ann_file='data/demo/splits/train.csv', pipeline=train_pipeline
)
val_dataloader['dataset'].update(
    data_root=data_root, ann_file='data/demo/splits/val.csv', pipeline=test_pipeline
)
test_dataloader['dataset'].update(
    data_root=data_root, ann_file='data/demo/splits/test.csv', pipeline=test_pipeline
)
train_dataloader.update(num_workers=0, persistent_workers=False)
val_dataloader.update(num_workers=0, persistent_workers=False)
test_dataloader.update(num_workers=0, persistent_workers=False)
default_hooks['logger'].update(interval=10)
