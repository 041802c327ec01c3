"""SemCKD with the networks and data of ham64.py."""

from mmengine.config import read_base

with read_base():
    from .._base_.methods.semckd_classification import model as method
    from .ham64 import *

method['transfers'][1]['loss'].update(batch_size=16)
model = dict(
    method,
    members=dict(teacher=small_teacher, student=small_student),
    input_size=(64, 64),
    data_preprocessor=data_preprocessor,
)
