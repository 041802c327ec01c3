"""KD+ML v3 on LGG with weights that are learned by uncertainty (Kendall et al. 2018)."""

from mmengine.config import read_base

from mmkdml.models import UncertaintyWeighting

with read_base():
    from ..kdml.r50_r18x2_v3_lgg import *

model.update(learned_weights=dict(type=UncertaintyWeighting))
optim_wrapper.update(paramwise_cfg=dict(custom_keys={'learned_weights': dict(lr_mult=10)}))
