"""Detectors of mmdet that are not of one stage."""

import pytest
import torch.nn.functional as F
from mmengine import Config

from mmkdml.packages import packaged_file
from mmkdml.registry import MODELS


def two_stage():
    """Return a small Faster R-CNN with a fast substitute for RoIAlign, which needs operators."""
    config = Config.fromfile(
        packaged_file('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py')
    ).model
    config.backbone = dict(type='ResNet', depth=18, base_channels=4, stem_channels=4)
    config.neck.update(in_channels=[4, 8, 16, 32], out_channels=16)
    config.rpn_head.update(in_channels=16, feat_channels=16)
    config.roi_head.bbox_roi_extractor.out_channels = 16
    config.roi_head.bbox_head.update(in_channels=16, fc_out_channels=16, num_classes=3)
    member = MODELS.build(dict(config, _scope_='mmdet'))
    for layer in member.roi_head.bbox_roi_extractor.roi_layers:
        layer.forward = lambda maps, rois: F.interpolate(maps[rois[:, 0].long()], (7, 7))
    return member


def detr():
    config = Config.fromfile(packaged_file('mmdet::detr/detr_r50_8xb2-150e_coco.py')).model
    config.backbone = dict(
        type='ResNet', depth=18, base_channels=4, stem_channels=4, out_indices=[3]
    )
    config.neck.in_channels = [32]
    config.bbox_head.num_classes = 3
    config.num_queries = 5
    config.test_cfg.max_per_img = 5
    for part in ('encoder', 'decoder'):
        config[part].num_layers = 1
    return MODELS.build(dict(config, _scope_='mmdet'))


@pytest.fixture(params=[two_stage, detr], ids=lambda make: make.__name__)
def other_detector(request):
    """A small detector whose predictions cannot be transferred."""
    pytest.importorskip('mmdet')
    return request.param()
