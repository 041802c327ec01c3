"""Two students of lgg_cv.py that learn only from the predictions of a frozen teacher."""

from mmengine.config import read_base

with read_base():
    from .._base_.methods.segmentation import model as method
    from .lgg_cv import *

names = ['student_1', 'student_2']
model = dict(
    method,
    members=dict(teacher=small_teacher, student_1=small_student, student_2=small_student),
    transfers=[dict(transfer, learner=name) for name in names for transfer in method['transfers']],
    **small_networks,
)
