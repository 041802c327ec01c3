"""ResNet50 teacher and two ResNet18 students for the 14 findings of NIH ChestX-ray14."""

from mmengine.config import read_base

with read_base():
    from ..networks.nih_classifiers import resnet18, resnet50_for_resnet18
    from .r50_r18x2_classification import model

model.update(teacher=resnet50_for_resnet18, students=[resnet18, resnet18])
