"""Two methods in mutual learning: AT to one student, CWD to the other, on LGG."""

from mmengine.config import read_base

from mmkdml.models import AttentionTransferLoss, ChannelWiseLoss, KnowledgeDistiller

with read_base():
    from .._base_.datasets.lgg import *
    from .._base_.networks.unets import data_preprocessor
    from .._base_.networks.unets import unet_resnet18 as student
    from .._base_.schedules.adam_100e import *

model = dict(
    type=KnowledgeDistiller,
    members=dict(student_1=student, student_2=student),
    transfers=[
        dict(
            source='student_2',
            learner='student_1',
            knowledge='features',
            weight=1000.0,
            loss=dict(type=AttentionTransferLoss),
        ),
        dict(
            source='student_1',
            learner='student_2',
            knowledge='predictions',
            weight=3.0,
            loss=dict(type=ChannelWiseLoss),
        ),
    ],
    input_size=(256, 256),
    data_preprocessor=data_preprocessor,
)
