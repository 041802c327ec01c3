"""KD+ML v3 on LGG with schedules: the teacher's weight rises, the peers teach until epoch 80."""

from mmengine.config import read_base

from mmkdml.models import LinearWeight, MultiStepWeight

with read_base():
    from ..kdml.r50_r18x2_v3_lgg import *

model.update(
    weight_schedules=dict(
        beta=dict(type=LinearWeight, start_factor=0.0, end=10),
        gamma=dict(type=MultiStepWeight, milestones=[80], gamma=0.0),
    )
)
