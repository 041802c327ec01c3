"""KD+ML, v3 (predictions and features), on HAM10000's lesions; weights: Table 15."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_ham10000_seg import model
    from .._base_.datasets.ham10000_seg import *
    from .._base_.schedules.adam_30e import *

model.update(
    mode='kdml', style='v3', weights=dict(alpha=(0.1, 0.1), beta=(0.45, 0.45), gamma=(0.45, 0.45))
)
