"""LGG slices with and without tumour, with the split files of LGG."""

from mmengine.config import read_base

from mmkdml.datasets import LGGSliceDataset

with read_base():
    from .classification import *

slices = dict(type=LGGSliceDataset, data_root='data/lgg/kaggle_3m')
train_dataloader['dataset'].update(slices, ann_file='data/lgg/splits/train.csv')
val_dataloader['dataset'].update(slices, ann_file='data/lgg/splits/val.csv')
test_dataloader['dataset'].update(slices, ann_file='data/lgg/splits/test.csv')
