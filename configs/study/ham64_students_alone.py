"""Two students of ham64.py trained alone, for the ensemble of networks that share nothing."""

from mmengine.config import read_base

from mmkdml.models import KnowledgeDistiller

with read_base():
    from .ham64 import *

model = dict(
    type=KnowledgeDistiller,
    members=dict(student_1=small_student, student_2=small_student),
    transfers=[],
    input_size=(64, 64),
    data_preprocessor=data_preprocessor,
)
