"""Base of the classification data sets: images and labels of split files, 224x224."""

from mmcv.transforms import Resize
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler
from mmpretrain.datasets import PackInputs
from mmpretrain.evaluation import Accuracy
from mmpretrain.visualization import UniversalVisualizer

from mmkdml.datasets import AlbumentationsTransform, LoadCheckedImage, SplitClassificationDataset
from mmkdml.engine import ConfusionHook, StrictJsonVisBackend
from mmkdml.evaluation import (
    Calibration,
    ConfusionMatrix,
    Diversity,
    Fidelity,
    MacroPrecisionRecall,
    MemberMetrics,
)

with read_base():
    from ..default_runtime import *
    from .augmentation import augmentation

image_size = (224, 224)
pack = dict(
    type=PackInputs, meta_keys=('sample_idx', 'img_path', 'ori_shape', 'img_shape', 'id', 'group')
)
train_pipeline = [
    dict(type=LoadCheckedImage),
    dict(type=Resize, scale=image_size),
    dict(type=AlbumentationsTransform, transforms=augmentation),
    pack,
]
test_pipeline = [dict(type=LoadCheckedImage), dict(type=Resize, scale=image_size), pack]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=SplitClassificationDataset,
        data_root='data/mine',
        ann_file='data/mine_splits/train.csv',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    train_dataloader,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=SplitClassificationDataset,
        data_root='data/mine',
        ann_file='data/mine_splits/val.csv',
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='data/mine_splits/test.csv')
)

val_evaluator = dict(
    type=MemberMetrics,
    metric=[
        dict(type=Accuracy, topk=(1,)),
        dict(type=MacroPrecisionRecall, items=('precision', 'recall'), zero_division=0),
    ],
)
test_evaluator = [
    val_evaluator,
    dict(type=Fidelity),
    dict(type=Diversity),
    dict(type=Calibration),
    dict(type=ConfusionMatrix),
]
custom_hooks.append(dict(type=ConfusionHook))
default_hooks['checkpoint'].update(save_best='ensemble/accuracy/top1')
visualizer = dict(
    type=UniversalVisualizer, vis_backends=[dict(type=StrictJsonVisBackend)], name='visualizer'
)
