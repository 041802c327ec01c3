"""Offline KD, v1 (predictions), on HAM10000's diagnoses; weights: Table 14."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_ham10000_cls import model
    from .._base_.datasets.ham10000_cls import *
    from .._base_.schedules.adam_30e import *

model.update(
    mode='kd_off',
    style='v1',
    teacher_checkpoint='work_dirs/baselines/r50_ham10000_cls',  # run folder or checkpoint file
    weights=dict(alpha=(0.2, 0.2), beta=(0.8, 0.8)),
)
