"""Base of the segmentation data sets: images and binary masks of split files, 256x256."""

from mmcv.transforms import Resize
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmseg.datasets.transforms import PackSegInputs
from mmseg.visualization import SegLocalVisualizer

from mmkdml.datasets import (
    AlbumentationsTransform,
    LoadBinaryMask,
    LoadCheckedImage,
    SplitSegDataset,
)
from mmkdml.engine import PanelHook, StrictJsonVisBackend
from mmkdml.evaluation import Calibration, Diversity, Fidelity, ForegroundIoU, MemberMetrics

with read_base():
    from ..default_runtime import *
    from .augmentation import augmentation

image_size = (256, 256)
pack = dict(
    type=PackSegInputs,
    meta_keys=(
        'img_path',
        'seg_map_path',
        'ori_shape',
        'img_shape',
        'pad_shape',
        'scale_factor',
        'id',
        'group',
    ),
)
train_pipeline = [
    dict(type=LoadCheckedImage),
    dict(type=LoadBinaryMask),
    dict(type=Resize, scale=image_size),
    dict(type=AlbumentationsTransform, transforms=augmentation),
    pack,
]
test_pipeline = [
    dict(type=LoadCheckedImage),
    dict(type=Resize, scale=image_size),
    dict(type=LoadBinaryMask),  # after Resize: predictions are evaluated at the original size
    pack,
]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=SplitSegDataset,
        data_root='data/mine',
        ann_file='data/mine_splits/train.csv',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    train_dataloader,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=SplitSegDataset,
        data_root='data/mine',
        ann_file='data/mine_splits/val.csv',
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='data/mine_splits/test.csv')
)

val_evaluator = dict(type=MemberMetrics, metric=dict(type=ForegroundIoU, per_case='group'))
test_evaluator = [val_evaluator, dict(type=Fidelity), dict(type=Diversity), dict(type=Calibration)]
default_hooks['checkpoint'].update(save_best='ensemble/foreground/IoU')
custom_hooks.append(dict(type=PanelHook))
visualizer = dict(
    type=SegLocalVisualizer, vis_backends=[dict(type=StrictJsonVisBackend)], name='visualizer'
)
