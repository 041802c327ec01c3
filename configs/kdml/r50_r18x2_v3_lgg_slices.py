"""KD+ML, v3 (predictions and features), on LGG slices (tumour or not); weights: Table 3."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_classification import model
    from .._base_.datasets.lgg_slices import *
    from .._base_.schedules.adam_30e import *

model.update(
    mode='kdml', style='v3', weights=dict(alpha=(0.2, 0.4), beta=(0.4, 0.3), gamma=(0.4, 0.3))
)
