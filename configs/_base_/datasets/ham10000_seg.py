"""Lesions of HAM10000, 224x224; split with tools/dataset_converters/ham10000.py --task seg."""

from mmengine.config import read_base

from mmkdml.datasets import HAM10000SegDataset

with read_base():
    from .segmentation import *

ham10000 = dict(type=HAM10000SegDataset, data_root='data/ham10000/published')
train_dataloader['dataset'].update(ham10000, ann_file='data/ham10000/splits_seg/train.csv')
val_dataloader['dataset'].update(ham10000, ann_file='data/ham10000/splits_seg/val.csv')
test_dataloader['dataset'].update(ham10000, ann_file='data/ham10000/splits_seg/test.csv')

image_size = (224, 224)
train_pipeline[2].update(scale=image_size)
test_pipeline[1].update(scale=image_size)
train_dataloader['dataset'].update(pipeline=train_pipeline)
val_dataloader['dataset'].update(pipeline=test_pipeline)
test_dataloader['dataset'].update(pipeline=test_pipeline)
