"""Text configs of stock detectors, with default scope or prefix, in training and test."""

import json

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('mmdet')

TEXT = """
{scope}
_base_ = ['mmdet::_base_/models/retinanet_r50_fpn.py']
preprocessor = dict(
    type='{prefix}DetDataPreprocessor', mean=[123.0] * 3, std=[58.0] * 3, bgr_to_rgb=True,
    pad_size_divisor=32,
)
network = dict(
    type='{prefix}RetinaNet',
    backbone=dict(type='{prefix}ResNet', depth=18, base_channels=4, stem_channels=4),
    neck=dict(
        type='{prefix}FPN', in_channels=[4, 8, 16, 32], out_channels=8, start_level=1, num_outs=3,
    ),
    bbox_head=dict(
        type='{prefix}RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
        anchor_generator=dict(
            type='{prefix}AnchorGenerator', scales=[4], ratios=[1.0], strides=[8, 16, 32]
        ),
        bbox_coder=dict(type='{prefix}DeltaXYWHBBoxCoder'),
        loss_cls=dict(type='{prefix}FocalLoss', use_sigmoid=True),
        loss_bbox=dict(type='{prefix}L1Loss'),
    ),
    train_cfg=dict(
        assigner=dict(
            type='{prefix}MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0,
            iou_calculator=dict(type='{prefix}BboxOverlaps2D'),
        ),
        sampler=dict(type='{prefix}PseudoSampler'), allowed_border=-1, pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=50, score_thr=0.0, nms=dict(type='nms', iou_threshold=0.5), max_per_img=9
    ),
)
model = dict(
    _delete_=True, type='mmkdml.DiversifiedKDMLDistiller', mode='ml', style='v3',
    students=[network, network], input_size=(64, 64), data_preprocessor=preprocessor,
    weights=dict(alpha=(0.5, 0.5), gamma=(0.5, 0.5)),
)
pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='{prefix}LoadAnnotations', with_bbox=True),
    dict(type='{prefix}Resize', scale=(64, 64), keep_ratio=True),
    dict(type='{prefix}PackDetInputs'),
]
dataset = dict(
    type='{prefix}CocoDataset', data_root={root!r}, ann_file='boxes.json',
    data_prefix=dict(img='images/'), metainfo=dict(classes=('a', 'b')), pipeline=pipeline,
)
train_dataloader = dict(
    batch_size=2, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=True)
)
val_dataloader = test_dataloader = dict(
    batch_size=1, num_workers=0, dataset=dataset, sampler=dict(type='DefaultSampler', shuffle=False)
)
val_evaluator = test_evaluator = dict(
    type='mmkdml.MemberMetrics',
    metric=dict(type='{prefix}CocoMetric', ann_file={root!r} + '/boxes.json', metric='bbox'),
)
train_cfg = dict(by_epoch=True, max_epochs=1)
split_overlap = 'warn'
val_cfg, test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.01))
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
"""


def write_data(folder):
    """Write four images with a box each, in COCO's format."""
    (folder / 'images').mkdir()
    images, boxes = [], []
    for number in range(4):
        pixels = np.full((64, 48, 3), 40 * number, np.uint8)
        pixels[8:40, 8:30] = 250
        Image.fromarray(pixels).save(folder / 'images' / f'{number}.png')
        images.append(dict(id=number, file_name=f'{number}.png', height=64, width=48))
        box = dict(bbox=[8, 8, 22, 32], area=704, iscrowd=0)
        boxes.append(dict(box, id=number + 1, image_id=number, category_id=number % 2 + 1))
    classes = [dict(id=1, name='a'), dict(id=2, name='b')]
    text = json.dumps(dict(images=images, annotations=boxes, categories=classes))
    (folder / 'boxes.json').write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize('scoped', [True, False])
def test_classroom_of_stock_detectors(tool, tmp_path, scoped):
    write_data(tmp_path)
    text = TEXT.format(
        scope="default_scope = 'mmdet'" if scoped else '',
        prefix='' if scoped else 'mmdet.',
        root=str(tmp_path),
    )
    path = tmp_path / 'text.py'
    path.write_text(text)
    tool('train', path, '--work-dir', tmp_path / 'run')
    (checkpoint,) = (tmp_path / 'run').glob('epoch_1.pth')
    out = tmp_path / 'x.json'
    tool('test', path, checkpoint, '--work-dir', tmp_path / 'w', '--out', out)
    found = json.loads(out.read_text())
    for member in ('student_1', 'student_2', 'ensemble'):
        assert 0 <= found[f'{member}/coco/bbox_mAP'] <= 1
