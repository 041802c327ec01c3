"""Offline KD, v2 (features), on HAM10000's lesions; weights: Table 15."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_ham10000_seg import model
    from .._base_.datasets.ham10000_seg import *
    from .._base_.schedules.adam_30e import *

model.update(
    mode='kd_off',
    style='v2',
    teacher_checkpoint='work_dirs/baselines/r50_ham10000_seg',  # run folder or checkpoint file
    weights=dict(alpha=(0.2, 0.2), beta=(0.8, 0.8)),
)
