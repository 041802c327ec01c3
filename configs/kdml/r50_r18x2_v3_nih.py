"""KD+ML, v3 (predictions and features), on the findings of NIH ChestX-ray14.

The paper has no such data set; the weights are those of HAM10000's diagnoses.
"""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_nih import model
    from .._base_.datasets.nih import *
    from .._base_.schedules.adam_30e import *

model.update(
    mode='kdml', style='v3', weights=dict(alpha=(0.2, 0.4), beta=(0.4, 0.3), gamma=(0.4, 0.3))
)
