"""Base of the compared methods: a frozen U-Net with ResNet50 teaches one with ResNet18.

Predictions are compared per pixel at T = 1 with weight 1, as in winycg/CIRKD, except in DSD and
EMKD.
"""

from mmengine.config import read_base

from mmkdml.models import KnowledgeDistiller, PixelWiseLoss

with read_base():
    from ..networks.unets import data_preprocessor, unet_resnet18, unet_resnet50

predictions = dict(
    source='teacher',
    learner='student',
    knowledge='predictions',
    weight=1.0,
    loss=dict(type=PixelWiseLoss),
)
features = dict(source='teacher', learner='student', knowledge='features')
# The feature map before the last convolution, as in CIRKD.
last_map = dict(features, source_tap='decode_head.blocks.4', learner_tap='decode_head.blocks.4')

model = dict(
    type=KnowledgeDistiller,
    members=dict(teacher=unet_resnet50, student=unet_resnet18),
    frozen=dict(teacher='work_dirs/baselines/r50_lgg'),  # run folder or checkpoint file
    transfers=[predictions],
    input_size=(256, 256),
    data_preprocessor=data_preprocessor,
)
