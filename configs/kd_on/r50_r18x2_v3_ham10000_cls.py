"""Online KD, v3 (predictions and features), on HAM10000's diagnoses; weights: Table 14."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_ham10000_cls import model
    from .._base_.datasets.ham10000_cls import *
    from .._base_.schedules.adam_30e import *

model.update(mode='kd_on', style='v3', weights=dict(alpha=(0.1, 0.2), beta=(0.9, 0.8)))
