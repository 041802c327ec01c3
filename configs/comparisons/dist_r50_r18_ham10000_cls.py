"""DIST: a ResNet50 teaches a ResNet18, on diagnoses of HAM10000."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.ham10000_cls import *
    from .._base_.methods.dist_classification import model
    from .._base_.schedules.adam_30e import *

model['members']['teacher']['head'].update(num_classes=7)
model['members']['student']['head'].update(num_classes=7)
model['frozen'].update(teacher='work_dirs/baselines/r50_ham10000_cls')
