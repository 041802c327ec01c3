"""Baseline: the student of hippocampus.py."""

from mmengine.config import read_base

with read_base():
    from .hippocampus import *

model = small_student
default_hooks['checkpoint'].update(save_best='model/foreground/IoU')
