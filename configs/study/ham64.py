"""Small study: seven classes of HAM10000 at 64x64, small networks without pretraining."""

from mmengine.config import read_base

with read_base():
    from .._base_.datasets.ham10000_cls import *
    from ..demo.kdml_v3_demo_slices import (
        data_preprocessor,
        model,
        optim_wrapper,
        param_scheduler,
        small_student,
        small_teacher,
        test_cfg,
        train_cfg,
        val_cfg,
    )

small_teacher['backbone'].update(stem_channels=24, base_channels=24)
small_teacher['neck'].update(in_channels=192, out_channels=96)
small_teacher['head'].update(num_classes=7, in_channels=96)
small_student['backbone'].update(stem_channels=12, base_channels=12)
small_student['head'].update(num_classes=7, in_channels=96)
model.update(
    teacher=small_teacher,
    students=[small_student, small_student],
    weights=dict(alpha=(0.2, 0.4), beta=(0.4, 0.3), gamma=(0.4, 0.3)),
)
# Setting of a classroom with one student, for the compared methods.
small_pair = dict(
    members=dict(teacher=small_teacher, student=small_student),
    input_size=(64, 64),
    data_preprocessor=data_preprocessor,
)

train_cfg.update(max_epochs=6)
param_scheduler.update(T_max=6)
train_pipeline[1].update(scale=(64, 64))
test_pipeline[1].update(scale=(64, 64))
train_dataloader['dataset'].update(pipeline=train_pipeline)
val_dataloader['dataset'].update(pipeline=test_pipeline)
test_dataloader['dataset'].update(pipeline=test_pipeline)
train_dataloader.update(batch_size=16, num_workers=0, persistent_workers=False)
val_dataloader.update(batch_size=32, num_workers=0, persistent_workers=False)
test_dataloader.update(batch_size=32, num_workers=0, persistent_workers=False)
