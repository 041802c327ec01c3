"""Baseline: ATSS with ResNet50 on lesions of HAM10000."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.ham10000_det import *
    from .._base_.networks.atss import atss_resnet50 as model
    from .._base_.schedules.adam_30e import *

model['bbox_head'].update(num_classes=1)
default_hooks['checkpoint'].update(save_best='model/coco/bbox_mAP')
