"""Two methods in KD+ML v3: SP from the teacher to one student, AT to its peer, on PCam."""

from mmengine.config import read_base

from mmkdml.models import AttentionTransferLoss, KnowledgeDistiller, SimilarityPreservingLoss

with read_base():
    from .._base_.datasets.pcam import *
    from .._base_.methods.classification import predictions, student_stages
    from .._base_.networks.classifiers import data_preprocessor, resnet18, resnet50_for_resnet18
    from .._base_.schedules.adam_30e import *

model = dict(
    type=KnowledgeDistiller,
    members=dict(teacher=resnet50_for_resnet18, student_1=resnet18, student_2=resnet18),
    transfers=[
        dict(
            source='teacher',
            learner='student_1',
            knowledge='features',
            weight=3000.0,
            loss=dict(type=SimilarityPreservingLoss),
        ),
        dict(predictions, source='student_2', learner='student_1'),
        dict(predictions, source='teacher', learner='student_2'),
        dict(
            source='student_1',
            learner='student_2',
            knowledge='features',
            weight=1000.0,
            loss=dict(type=AttentionTransferLoss),
            source_tap=student_stages,
            learner_tap=student_stages,
        ),
    ],
    input_size=(224, 224),
    data_preprocessor=data_preprocessor,
)
