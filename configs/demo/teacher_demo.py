"""Baseline: the teacher of kdml_v3_demo.py."""

from mmengine.config import read_base

with read_base():
    from .kdml_v3_demo import *

model = dict(small_teacher, data_preprocessor=data_preprocessor)
default_hooks['checkpoint'].update(save_best='model/foreground/IoU')
