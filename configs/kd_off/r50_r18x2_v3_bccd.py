"""Offline KD, v3 (predictions and features), on BCCD with two ATSS ResNet18."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_detection import model
    from .._base_.datasets.bccd import *
    from .._base_.schedules.adam_30e import *

model.update(
    mode='kd_off',
    style='v3',
    teacher_checkpoint='work_dirs/baselines/r50_bccd',  # run folder or checkpoint file
    weights=dict(alpha=(0.5, 0.5), beta=(0.5, 0.5)),
)
