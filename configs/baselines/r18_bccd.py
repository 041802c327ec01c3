"""Baseline: ATSS with ResNet18 on BCCD."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.bccd import *
    from .._base_.networks.atss import atss_resnet18 as model
    from .._base_.schedules.adam_30e import *

default_hooks['checkpoint'].update(save_best='model/coco/bbox_mAP')
