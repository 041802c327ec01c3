"""Small ATSS detectors without pretrained weights, for studies and demos on a CPU."""

from mmdet.models import FPN, ResNet
from mmengine.config import read_base

with read_base():
    from .atss import atss_resnet50, data_preprocessor

small_teacher = dict(
    atss_resnet50,
    backbone=dict(type=ResNet, depth=18, stem_channels=32, base_channels=32),
    neck=dict(
        type=FPN,
        in_channels=[32, 64, 128, 256],
        out_channels=64,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=4,
    ),
    bbox_head=dict(
        atss_resnet50['bbox_head'],
        in_channels=64,
        feat_channels=64,
        stacked_convs=2,
        anchor_generator=dict(
            atss_resnet50['bbox_head']['anchor_generator'],
            octave_base_scale=4,
            strides=[8, 16, 32, 64],
        ),
    ),
)
small_teacher.pop('data_preprocessor')
small_student = dict(
    small_teacher,
    backbone=dict(type=ResNet, depth=18, stem_channels=16, base_channels=16),
    neck=dict(small_teacher['neck'], in_channels=[16, 32, 64, 128]),
)
