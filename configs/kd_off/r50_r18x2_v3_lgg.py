"""Offline KD, v3 (predictions and features), on LGG with two ResNet18; weights: Table 4."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_segmentation import model
    from .._base_.datasets.lgg import *
    from .._base_.schedules.adam_100e import *

model.update(
    mode='kd_off',
    style='v3',
    teacher_checkpoint='work_dirs/baselines/r50_lgg',  # run folder or checkpoint file
    weights=dict(alpha=(0.2, 0.2), beta=(0.8, 0.8)),
)
