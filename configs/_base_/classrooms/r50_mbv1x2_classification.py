"""ResNet50 teacher and two MobileNet students."""

from mmengine.config import read_base

with read_base():
    from ..networks.classifiers import mobilenet, resnet50_for_mobilenet
    from .r50_r18x2_classification import model

model['teacher'] = resnet50_for_mobilenet
model['students'] = [mobilenet, mobilenet]
