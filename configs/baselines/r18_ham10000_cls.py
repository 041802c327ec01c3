"""Baseline: ResNet18 on diagnoses of HAM10000 (Table 13)."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.ham10000_cls import *
    from .._base_.networks.ham10000_classifiers import resnet18 as model
    from .._base_.schedules.adam_30e import *

default_hooks['checkpoint'].update(save_best='model/accuracy/top1')
