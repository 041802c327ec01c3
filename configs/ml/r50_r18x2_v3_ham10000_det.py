"""Mutual learning, v3 (predictions and features), on boxes of HAM10000 with two ATSS ResNet18."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.r50_r18x2_ham10000_det import model
    from .._base_.datasets.ham10000_det import *
    from .._base_.schedules.adam_30e import *

model.update(mode='ml', style='v3', weights=dict(alpha=(0.5, 0.5), gamma=(0.5, 0.5)))
