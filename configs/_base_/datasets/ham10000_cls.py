"""Diagnoses of HAM10000, 224x224; split with tools/dataset_converters/ham10000.py --task cls."""

from mmengine.config import read_base

from mmkdml.datasets import HAM10000Dataset

with read_base():
    from .classification import *

ham10000 = dict(type=HAM10000Dataset, data_root='data/ham10000/published')
train_dataloader['dataset'].update(ham10000, ann_file='data/ham10000/splits_cls/train.csv')
val_dataloader['dataset'].update(ham10000, ann_file='data/ham10000/splits_cls/val.csv')
test_dataloader['dataset'].update(ham10000, ann_file='data/ham10000/splits_cls/test.csv')
