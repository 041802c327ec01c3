"""Mutual learning, v1 (predictions), on BCCD with two ATSS ResNet18."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_detection import model
    from .._base_.datasets.bccd import *
    from .._base_.schedules.adam_30e import *

model.update(mode='ml', style='v1', weights=dict(alpha=(0.5, 0.5), gamma=(0.5, 0.5)))
