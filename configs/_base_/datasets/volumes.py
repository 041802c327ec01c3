"""Base of the data sets of volumes: slices as stored by tools/dataset_converters/nnunet.py.

What is None here is set from the split files when a config is loaded: the normalization, and the
size of the images, the median of the slices rounded up to a multiple of 16.
"""

from mmcv.transforms import Resize
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmseg.datasets.transforms import PackSegInputs
from mmseg.visualization import SegLocalVisualizer

from mmkdml.datasets import (
    AlbumentationsTransform,
    LoadSliceLabel,
    LoadVolumeSlice,
    NormalizeVolume,
    VolumeSliceDataset,
)
from mmkdml.engine import PanelHook, StrictJsonVisBackend
from mmkdml.evaluation import (
    Calibration,
    ClinicalSegmentation,
    Diversity,
    Fidelity,
    ForegroundIoU,
    MemberMetrics,
)

with read_base():
    from ..default_runtime import *
    from .augmentation import augmentation

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
        'case',
        'slice',
        'slices',
        'spacing',
    ),
)
train_pipeline = [
    dict(type=LoadVolumeSlice, context=0),
    dict(type=NormalizeVolume, channels=None),
    dict(type=LoadSliceLabel),
    dict(type=Resize, scale=None),
    dict(type=AlbumentationsTransform, transforms=augmentation),
    pack,
]
test_pipeline = [
    dict(type=LoadVolumeSlice, context=0),
    dict(type=NormalizeVolume, channels=None),
    dict(type=Resize, scale=None),
    dict(type=LoadSliceLabel),  # after Resize: predictions are evaluated at the original size
    pack,
]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=VolumeSliceDataset,
        data_root='data/volumes/volumes',
        ann_file='data/volumes/train.csv',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    train_dataloader,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=VolumeSliceDataset,
        data_root='data/volumes/volumes',
        ann_file='data/volumes/val.csv',
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='data/volumes/test.csv')
)

val_evaluator = dict(type=MemberMetrics, metric=dict(type=ForegroundIoU, per_case='case'))
test_evaluator = [
    val_evaluator,
    dict(type=ClinicalSegmentation),
    dict(type=Fidelity),
    dict(type=Diversity),
    dict(type=Calibration),
]
default_hooks['checkpoint'].update(save_best='ensemble/foreground/IoU')
custom_hooks.append(dict(type=PanelHook))
visualizer = dict(
    type=SegLocalVisualizer, vis_backends=[dict(type=StrictJsonVisBackend)], name='visualizer'
)
