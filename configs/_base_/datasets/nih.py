"""NIH ChestX-ray14, 224x224; split with tools/dataset_converters/multi_label.py.

Only left and right are flipped, because X-rays are always upright.
"""

from albumentations import HorizontalFlip
from mmengine.config import read_base

from mmkdml.datasets import ChestXray14Dataset

with read_base():
    from .multi_label import *

train_pipeline[2].update(transforms=[dict(type=HorizontalFlip, p=0.5)])
nih = dict(type=ChestXray14Dataset, data_root='data/nih/published')
train_dataloader['dataset'].update(
    nih, ann_file='data/nih/splits/train.csv', pipeline=train_pipeline
)
val_dataloader['dataset'].update(nih, ann_file='data/nih/splits/val.csv')
test_dataloader['dataset'].update(nih, ann_file='data/nih/splits/test.csv')
