"""KD+ML, v1 (predictions), on HAM10000's diagnoses; weights: Table 14."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_ham10000_cls import model
    from .._base_.datasets.ham10000_cls import *
    from .._base_.schedules.adam_30e import *

model.update(
    mode='kdml', style='v1', weights=dict(alpha=(0.1, 0.2), beta=(0.45, 0.4), gamma=(0.45, 0.4))
)
