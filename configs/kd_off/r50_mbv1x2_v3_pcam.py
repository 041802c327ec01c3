"""Offline KD, v3 (predictions and features), on PCam with two MobileNets; weights: Table 8."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_mbv1x2_classification import model
    from .._base_.datasets.pcam import *
    from .._base_.schedules.adam_30e import *

model.update(
    mode='kd_off',
    style='v3',
    teacher_checkpoint='work_dirs/baselines/r50_c1024_pcam',  # run folder or checkpoint file
    weights=dict(alpha=(0.2, 0.2), beta=(0.8, 0.8)),
)
