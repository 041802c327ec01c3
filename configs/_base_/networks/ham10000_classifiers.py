"""Classifiers of the paper for the seven diagnoses of HAM10000."""

from mmengine.config import read_base

with read_base():
    from .classifiers import resnet18, resnet50_for_resnet18

resnet50_for_resnet18['head'].update(num_classes=7)
resnet18['head'].update(num_classes=7)
