"""KD+ML v3 with small classifiers on synthetic slices with and without lesion."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet

from mmkdml.models import ConvBlockNeck, DiversifiedKDMLDistiller

with read_base():
    from .._base_.datasets.lgg_slices import *
    from .._base_.networks.classifiers import data_preprocessor
    from .._base_.schedules.adam_30e import *

small_student = dict(
    type=ImageClassifier,
    backbone=dict(type=ResNet, depth=18, stem_channels=16, base_channels=16),
    neck=dict(type=GlobalAveragePooling),
    head=dict(type=LinearClsHead, num_classes=2, in_channels=128),
)
small_teacher = dict(
    small_student,
    backbone=dict(type=ResNet, depth=18, stem_channels=32, base_channels=32),
    neck=dict(type=ConvBlockNeck, in_channels=256, out_channels=128),
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

train_pipeline[1].update(scale=(64, 64))
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
