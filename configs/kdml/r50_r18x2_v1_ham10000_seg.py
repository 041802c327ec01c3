"""KD+ML, v1 (predictions), on HAM10000's lesions; weights: Table 15."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_ham10000_seg import model
    from .._base_.datasets.ham10000_seg import *
    from .._base_.schedules.adam_30e import *

model.update(
    mode='kdml', style='v1', weights=dict(alpha=(0.2, 0.2), beta=(0.4, 0.4), gamma=(0.4, 0.4))
)
