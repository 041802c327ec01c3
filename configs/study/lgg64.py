"""Small study (docs/studies/): LGG at 64x64, small U-Nets without pretraining."""

from mmengine.config import read_base

with read_base():
    from ..demo.kdml_v3_demo import *

small_teacher['backbone'].update(stem_channels=32, base_channels=32)
small_teacher['decode_head'].update(in_channels=[32, 32, 64, 128, 256])
small_student['backbone'].update(stem_channels=16, base_channels=16)
small_student['decode_head'].update(in_channels=[16, 16, 32, 64, 128])
model.update(
    teacher=small_teacher,
    students=[small_student, small_student],
    weights=dict(alpha=(0.1, 0.1), beta=(0.45, 0.45), gamma=(0.45, 0.45)),
)
# Setting of a classroom with one student, for the compared methods.
small_pair = dict(
    members=dict(teacher=small_teacher, student=small_student),
    input_size=(64, 64),
    data_preprocessor=data_preprocessor,
)

train_cfg.update(max_epochs=6)
param_scheduler.update(T_max=6)
data_root = 'data/lgg/kaggle_3m'
train_dataloader['dataset'].update(data_root=data_root, ann_file='data/lgg/splits/train.csv')
val_dataloader['dataset'].update(data_root=data_root, ann_file='data/lgg/splits/val.csv')
test_dataloader['dataset'].update(data_root=data_root, ann_file='data/lgg/splits/test.csv')
train_dataloader.update(batch_size=8)
val_dataloader.update(batch_size=32)
test_dataloader.update(batch_size=32)
custom_hooks.pop()  # no figures of predictions
