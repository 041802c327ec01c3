"""Baseline: U-Net with ResNet18 on lesions of HAM10000 (Table 13)."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.ham10000_seg import *
    from .._base_.networks.unets import unet_resnet18 as model
    from .._base_.schedules.adam_30e import *

default_hooks['checkpoint'].update(save_best='model/foreground/IoU')
