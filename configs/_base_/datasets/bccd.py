"""Cells of BCCD, 640x480; prepared by tools/dataset_converters/bccd.py."""

from mmengine.config import read_base

from mmkdml.datasets import BCCDDataset

with read_base():
    from .detection import *

bccd = dict(type=BCCDDataset, data_root='data/bccd/BCCD')
train_dataloader['dataset'].update(bccd, ann_file='data/bccd/splits/train.csv')
val_dataloader['dataset'].update(bccd, ann_file='data/bccd/splits/val.csv')
test_dataloader['dataset'].update(bccd, ann_file='data/bccd/splits/test.csv')
