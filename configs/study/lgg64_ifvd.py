"""IFVD with the networks and data of lgg64.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.methods.ifvd_segmentation import model as method
    from .lgg64 import *

model = dict(
    method,
    members=dict(teacher=small_teacher, student=small_student),
    input_size=(64, 64),
    data_preprocessor=data_preprocessor,
)
