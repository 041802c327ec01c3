"""Boxes of HAM10000, 256x192; split with tools/dataset_converters/ham10000.py --task det."""

from mmengine.config import read_base

from mmkdml.datasets import HAM10000BoxDataset

with read_base():
    from .detection import *

image_size = (256, 256)
train_pipeline[2].update(scale=image_size)
test_pipeline[1].update(scale=image_size)
ham10000 = dict(type=HAM10000BoxDataset, data_root='data/ham10000/published')
train_dataloader['dataset'].update(
    ham10000, ann_file='data/ham10000/splits_det/train.csv', pipeline=train_pipeline
)
val_dataloader['dataset'].update(
    ham10000, ann_file='data/ham10000/splits_det/val.csv', pipeline=test_pipeline
)
test_dataloader['dataset'].update(
    ham10000, ann_file='data/ham10000/splits_det/test.csv', pipeline=test_pipeline
)
