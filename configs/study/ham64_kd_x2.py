"""Two students of ham64.py that learn only from the predictions of a frozen teacher."""

from mmengine.config import read_base

with read_base():
    from .ham64_kd import *

names = ['student_1', 'student_2']
model.update(
    members=dict(teacher=small_teacher, student_1=small_student, student_2=small_student),
    transfers=[dict(transfer, learner=name) for name in names for transfer in model['transfers']],
)
