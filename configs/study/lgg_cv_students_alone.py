"""Two students of lgg_cv.py trained alone, for the ensemble of networks that share nothing."""

from mmengine.config import read_base

from mmkdml.models import KnowledgeDistiller

with read_base():
    from .lgg_cv import *

model = dict(
    type=KnowledgeDistiller,
    members=dict(student_1=small_student, student_2=small_student),
    transfers=[],
    **small_networks,
)
