"""Classifiers of the paper with a sigmoid for each of the 14 findings of NIH ChestX-ray14."""

from mmengine.config import read_base
from mmpretrain.models import CrossEntropyLoss, MultiLabelLinearClsHead

with read_base():
    from .classifiers import data_preprocessor, resnet18, resnet50_for_resnet18

head = dict(
    type=MultiLabelLinearClsHead,
    num_classes=14,
    in_channels=512,
    loss=dict(type=CrossEntropyLoss, use_sigmoid=True),
)
resnet50_for_resnet18.update(head=head)
resnet18.update(head=head)
