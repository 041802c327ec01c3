"""SimKD: the student reuses the classifier of the teacher and learns its features only."""

from mmengine.config import read_base

from mmkdml.models import SimKDLoss, SimKDNeck

with read_base():
    from .classification import features, model, resnet18

# The teacher pools feature maps of 512 channels; its classifier has the student's shape.
student = dict(resnet18, neck=dict(type=SimKDNeck, in_channels=512, out_channels=512))
model['members'].update(student=student)
model.update(
    reused_classifiers=dict(student='teacher'),
    supervised_weights=dict(student=0.0),
    transfers=[dict(features, weight=1.0, loss=dict(type=SimKDLoss))],
)
