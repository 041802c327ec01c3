"""KD+ML with small U-Nets on all 110 patients of LGG at 64x64; base of the cross-validation."""

from mmengine.config import read_base

from mmkdml.engine import ChannelsLastHook

with read_base():
    from ..demo.kdml_v3_demo import *

# Setting of other classrooms.
small_networks = dict(input_size=(64, 64), data_preprocessor=data_preprocessor)
model.update(weights=dict(alpha=(0.1, 0.1), beta=(0.45, 0.45), gamma=(0.45, 0.45)))

# Nothing is chosen by validation: the networks of the last epoch are tested.
train_cfg.update(max_epochs=3, val_interval=3)
param_scheduler.update(T_max=3)
optim_wrapper['optimizer'].update(fused=True)
data_root = 'data/lgg128/kaggle_3m'
train_dataloader['dataset'].update(data_root=data_root, ann_file='data/lgg128/folds/train.csv')
val_dataloader['dataset'].update(data_root=data_root, ann_file='data/lgg128/folds/val.csv')
test_dataloader['dataset'].update(data_root=data_root, ann_file='data/lgg128/folds/test.csv')
train_dataloader.update(batch_size=16)
val_dataloader.update(batch_size=32)
test_dataloader.update(batch_size=32)
# Cases are counted by the suite, which needs no other metrics.
test_evaluator = val_evaluator
custom_hooks.pop()  # no figures of predictions
custom_hooks.append(dict(type=ChannelsLastHook))
