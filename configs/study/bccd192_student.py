"""Baseline: the student of bccd192.py."""

from mmengine.config import read_base

with read_base():
    from .bccd192 import *

model = dict(small_student, data_preprocessor=data_preprocessor)
default_hooks['checkpoint'].update(save_best='model/coco/bbox_mAP')
