"""Baseline: U-Net with MobileNet on LGG (Table 2)."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lgg import *
    from .._base_.networks.unets import unet_mobilenet as model
    from .._base_.schedules.adam_100e import *

default_hooks['checkpoint'].update(save_best='model/foreground/IoU')
