"""Baseline: the student of kdml_v3_demo_slices.py."""

from mmengine.config import read_base

with read_base():
    from .kdml_v3_demo_slices import *

model = dict(small_student, data_preprocessor=data_preprocessor)
default_hooks['checkpoint'].update(save_best='model/accuracy/top1')
