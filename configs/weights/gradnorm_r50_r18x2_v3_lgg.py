"""KD+ML v3 on LGG with weights that are learned by GradNorm (Chen et al. 2018; its rate 0.025)."""

from mmengine.config import read_base

from mmkdml.models import GradNorm

with read_base():
    from ..kdml.r50_r18x2_v3_lgg import *

model.update(learned_weights=dict(type=GradNorm, alpha=1.5))
optim_wrapper.update(paramwise_cfg=dict(custom_keys={'learned_weights': dict(lr_mult=250)}))
