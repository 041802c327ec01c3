"""Synthetic cells, 96x96; from tools/dataset_converters/make_demo_data.py --cells and coco.py."""

from mmengine.config import read_base

with read_base():
    from .detection import *

image_size = (96, 96)
train_pipeline[2].update(scale=image_size)
test_pipeline[1].update(scale=image_size)
cells = dict(data_root='data/demo_det/cells', metainfo=dict(classes=('red cell', 'white cell')))
train_dataloader['dataset'].update(
    cells, ann_file='data/demo_det/splits/train.csv', pipeline=train_pipeline
)
val_dataloader['dataset'].update(
    cells, ann_file='data/demo_det/splits/val.csv', pipeline=test_pipeline
)
test_dataloader['dataset'].update(
    cells, ann_file='data/demo_det/splits/test.csv', pipeline=test_pipeline
)
train_dataloader.update(num_workers=0, persistent_workers=False)
val_dataloader.update(num_workers=0, persistent_workers=False)
test_dataloader.update(num_workers=0, persistent_workers=False)
