"""KD+ML v1 with small ATSS detectors on BCCD, the longer side 192 pixels; base of the study."""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR
from torch.optim import AdamW

from mmkdml.models import DiversifiedKDMLDistiller

with read_base():
    from .._base_.datasets.bccd import *
    from .._base_.networks.small_atss import data_preprocessor, small_student, small_teacher
    from .._base_.schedules.adam_30e import *

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
train_pipeline[2].update(scale=(192, 192))
test_pipeline[1].update(scale=(192, 192))
train_dataloader['dataset'].update(pipeline=train_pipeline)
val_dataloader['dataset'].update(pipeline=test_pipeline)
test_dataloader['dataset'].update(pipeline=test_pipeline)
train_dataloader.update(num_workers=0, persistent_workers=False)
val_dataloader.update(num_workers=0, persistent_workers=False)
test_dataloader.update(num_workers=0, persistent_workers=False)
