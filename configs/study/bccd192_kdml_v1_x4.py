"""Four students that learn predictions from a teacher and from each other (KD+ML v1)."""

from itertools import permutations

from mmengine.config import read_base

from mmkdml.models import KnowledgeDistiller

with read_base():
    from .bccd192 import *

names = [f'student_{number}' for number in range(1, 5)]
transfers = [
    dict(source='teacher', learner=name, knowledge='predictions', weight=0.3) for name in names
]
# The weight of all peers together is that of the peer in a pair.
transfers += [
    dict(source=source, learner=learner, knowledge='predictions', weight=0.3 / 3)
    for source, learner in permutations(names, 2)
]
model = dict(
    type=KnowledgeDistiller,
    members=dict(teacher=small_teacher, **dict.fromkeys(names, small_student)),
    transfers=transfers,
    supervised_weights=dict.fromkeys(names, 0.4),
    input_size=(144, 192),
    data_preprocessor=data_preprocessor,
)
