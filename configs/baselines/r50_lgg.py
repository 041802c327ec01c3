"""Baseline: U-Net with ResNet50 on LGG (Table 2)."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lgg import *
    from .._base_.networks.unets import unet_resnet50 as model
    from .._base_.schedules.adam_100e import *

default_hooks['checkpoint'].update(save_best='model/foreground/IoU')
