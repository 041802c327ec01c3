"""Plain KD: an ATSS with ResNet50 teaches one with ResNet18, on BCCD."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.bccd import *
    from .._base_.methods.detection import model
    from .._base_.schedules.adam_30e import *
