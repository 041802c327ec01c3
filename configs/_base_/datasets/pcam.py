"""PCam, 224x224; split with tools/dataset_converters/pcam.py."""

from mmengine.config import read_base

from mmkdml.datasets import PCamDataset

with read_base():
    from .classification import *

pcam = dict(type=PCamDataset, data_root='data/pcam/histopathologic-cancer-detection')
train_dataloader['dataset'].update(pcam, ann_file='data/pcam/splits/train.csv')
val_dataloader['dataset'].update(pcam, ann_file='data/pcam/splits/val.csv')
test_dataloader['dataset'].update(pcam, ann_file='data/pcam/splits/test.csv')
