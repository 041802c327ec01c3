"""Baseline: the teacher of lgg_cv.py."""

from mmengine.config import read_base

with read_base():
    from .lgg_cv import *

model = dict(small_teacher, data_preprocessor=data_preprocessor)
default_hooks['checkpoint'].update(save_best='model/foreground/IoU')
