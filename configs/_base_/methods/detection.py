"""Plain KD, and base of the compared methods: a frozen ATSS ResNet50 teaches an ATSS ResNet18."""

from mmengine.config import read_base

from mmkdml.models import KnowledgeDistiller

with read_base():
    from ..networks.atss import atss_resnet18, atss_resnet50, data_preprocessor

predictions = dict(source='teacher', learner='student', knowledge='predictions', weight=1.0)
features = dict(source='teacher', learner='student', knowledge='features')
levels = [f'neck.fpn_convs.{level}' for level in range(5)]

model = dict(
    type=KnowledgeDistiller,
    members=dict(teacher=atss_resnet50, student=atss_resnet18),
    frozen=dict(teacher='work_dirs/baselines/r50_bccd'),  # run folder or checkpoint file
    transfers=[predictions],
    input_size=(480, 640),
    data_preprocessor=data_preprocessor,
)
