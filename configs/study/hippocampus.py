"""Hippocampus of the Medical Segmentation Decathlon at 64x48, small U-Nets, KD+ML v3."""

from mmengine.config import read_base

from mmkdml.engine import ChannelsLastHook

with read_base():
    from .._base_.classrooms.unets_volumes import *

for network, width in ((small_teacher, 24), (small_student, 12)):
    network['backbone'].update(stem_channels=width, base_channels=width)
    network['decode_head'].update(in_channels=[width, width, 2 * width, 4 * width, 8 * width])
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
# One epoch, about 400 steps: the networks of its end are tested.
train_cfg.update(max_epochs=1)
param_scheduler.update(T_max=1, convert_to_iter_based=True)
optim_wrapper['optimizer'].update(fused=True)
train_dataloader.update(batch_size=8)
val_dataloader.update(batch_size=64)
test_dataloader.update(batch_size=64)
for loader in (train_dataloader, val_dataloader, test_dataloader):
    loader.update(num_workers=0, persistent_workers=False)
del loader, network, width
test_evaluator = test_evaluator[:2]  # the study reports only these
custom_hooks = [*custom_hooks[:-1], dict(type=ChannelsLastHook)]  # no figures of predictions
