"""SimKD with the networks and data of ham64.py."""

from mmengine.config import read_base

from mmkdml.models import SimKDNeck

with read_base():
    from .._base_.methods.simkd_classification import model as method
    from .ham64 import *

small_student.update(neck=dict(type=SimKDNeck, in_channels=96, out_channels=96))
model = dict(
    method,
    members=dict(teacher=small_teacher, student=small_student),
    input_size=(64, 64),
    data_preprocessor=data_preprocessor,
)
