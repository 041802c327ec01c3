"""FitNet with the networks and data of ham64.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.methods.fitnet_classification import model as method
    from .ham64 import *

model = dict(
    method,
    members=dict(teacher=small_teacher, student=small_student),
    input_size=(64, 64),
    data_preprocessor=data_preprocessor,
)
