"""Baseline: the student of ham64.py."""

from mmengine.config import read_base

with read_base():
    from .ham64 import *

model = dict(small_student, data_preprocessor=data_preprocessor)
default_hooks['checkpoint'].update(save_best='model/accuracy/top1')
