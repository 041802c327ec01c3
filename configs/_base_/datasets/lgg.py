"""LGG MRI segmentation, 256x256; split with tools/dataset_converters/lgg.py."""

from mmengine.config import read_base

from mmkdml.datasets import LGGDataset

with read_base():
    from .segmentation import *

lgg = dict(type=LGGDataset, data_root='data/lgg/kaggle_3m')
train_dataloader['dataset'].update(lgg, ann_file='data/lgg/splits/train.csv')
val_dataloader['dataset'].update(lgg, ann_file='data/lgg/splits/val.csv')
test_dataloader['dataset'].update(lgg, ann_file='data/lgg/splits/test.csv')
