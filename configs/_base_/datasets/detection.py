"""Base of the detection data sets: images of split files with boxes, in at most 640x640 pixels."""

from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, RandomFlip, Resize
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import read_base
from mmengine.dataset import DefaultSampler

from mmkdml.datasets import LoadCheckedImage, SplitBoxDataset
from mmkdml.engine import PanelHook, StrictJsonVisBackend
from mmkdml.evaluation import BoxAP, Calibration, Diversity, Fidelity, MemberMetrics

with read_base():
    from ..default_runtime import *

image_size = (640, 640)
pack = dict(
    type=PackDetInputs,
    meta_keys=(
        'img_id',
        'img_path',
        'ori_shape',
        'img_shape',
        'scale_factor',
        'flip',
        'flip_direction',
        'id',
        'group',
    ),
)
train_pipeline = [
    dict(type=LoadCheckedImage),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=Resize, scale=image_size, keep_ratio=True),
    dict(
        type=RandomFlip, prob=[0.25, 0.25, 0.25], direction=['horizontal', 'vertical', 'diagonal']
    ),
    pack,
]
test_pipeline = [
    dict(type=LoadCheckedImage),
    dict(type=Resize, scale=image_size, keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True),  # after Resize: evaluated at the original size
    pack,
]

train_dataloader = dict(
    batch_size=8,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type=DefaultSampler, shuffle=True),
    dataset=dict(
        type=SplitBoxDataset,
        data_root='data/mine',
        ann_file='data/mine_splits/train.csv',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    train_dataloader,
    sampler=dict(type=DefaultSampler, shuffle=False),
    dataset=dict(
        type=SplitBoxDataset,
        data_root='data/mine',
        ann_file='data/mine_splits/val.csv',
        pipeline=test_pipeline,
        test_mode=True,
    ),
)
test_dataloader = dict(
    val_dataloader, dataset=dict(val_dataloader['dataset'], ann_file='data/mine_splits/test.csv')
)

val_evaluator = dict(type=MemberMetrics, metric=dict(type=BoxAP))
test_evaluator = [val_evaluator, dict(type=Fidelity), dict(type=Diversity), dict(type=Calibration)]
default_hooks['checkpoint'].update(save_best='ensemble/coco/bbox_mAP')
custom_hooks.append(dict(type=PanelHook))
visualizer = dict(
    type=DetLocalVisualizer, vis_backends=[dict(type=StrictJsonVisBackend)], name='visualizer'
)
