"""Baseline: MobileNet on PCam (Table 2)."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.pcam import *
    from .._base_.networks.classifiers import mobilenet as model
    from .._base_.schedules.adam_30e import *

default_hooks['checkpoint'].update(save_best='model/accuracy/top1')
