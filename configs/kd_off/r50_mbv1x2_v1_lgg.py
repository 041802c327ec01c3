"""Offline KD, v1 (predictions), on LGG with two MobileNets; weights: Table 9."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_mbv1x2_segmentation import model
    from .._base_.datasets.lgg import *
    from .._base_.schedules.adam_100e import *

model.update(
    mode='kd_off',
    style='v1',
    teacher_checkpoint='work_dirs/baselines/r50_lgg',  # run folder or checkpoint file
    weights=dict(alpha=(0.2, 0.2), beta=(0.8, 0.8)),
)
