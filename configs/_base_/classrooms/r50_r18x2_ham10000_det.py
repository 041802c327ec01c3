"""ATSS with a ResNet50 teacher and two ResNet18 students for one class, 256x192."""

from mmengine.config import read_base

with read_base():
    from .r50_r18x2_detection import model

model.update(input_size=(192, 256))
model['teacher']['bbox_head'].update(num_classes=1)
for student in model['students']:
    student['bbox_head'].update(num_classes=1)
