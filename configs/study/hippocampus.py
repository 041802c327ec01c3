"""Hippocampus of the Medical Segmentation Decathlon at 64x48, small U-Nets, KD+ML v3."""

from mmengine.config import read_base

with read_base():
    from .._base_.classrooms.unets_volumes import *

train_pipeline[3].update(scale=(48, 64))
test_pipeline[2].update(scale=(48, 64))
small_teacher['backbone'].update(in_channels=1)
small_teacher['decode_head'].update(num_classes=3)
small_student['backbone'].update(in_channels=1)
small_student['decode_head'].update(num_classes=3)
model.update(
    mode='kdml',
    style='v3',
    teacher=small_teacher,
    students=[small_student, small_student],
    input_size=(64, 48),
    weights=dict(alpha=(0.1, 0.1), beta=(0.45, 0.45), gamma=(0.45, 0.45)),
)

data = dict(data_root='data/hippocampus/volumes')
train_dataloader['dataset'].update(
    data, ann_file='data/hippocampus/train.csv', pipeline=train_pipeline
)
val_dataloader['dataset'].update(data, ann_file='data/hippocampus/val.csv', pipeline=test_pipeline)
test_dataloader['dataset'].update(
    data, ann_file='data/hippocampus/test.csv', pipeline=test_pipeline
)
train_dataloader.update(batch_size=32)
val_dataloader.update(batch_size=64)
test_dataloader.update(batch_size=64)
