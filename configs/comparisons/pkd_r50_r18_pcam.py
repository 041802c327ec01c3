"""PKD: a ResNet50 teaches a ResNet18, on PCam."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.pcam import *
    from .._base_.methods.pkd_classification import model
    from .._base_.schedules.adam_30e import *
