"""DIST: a ResNet50 teaches a ResNet18, on LGG."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.lgg import *
    from .._base_.methods.dist_segmentation import model
    from .._base_.schedules.adam_100e import *
