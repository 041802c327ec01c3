"""Small U-Nets without pretraining on volumes; channels and classes are those of the data.

What is None here is set from the split files when a config is loaded.
"""

from mmengine.config import read_base
from mmengine.optim import CosineAnnealingLR
from mmseg.models import EncoderDecoder

from mmkdml.models import (
    DiversifiedKDMLDistiller,
    FocalDiceLoss,
    MultiChannelSegDataPreProcessor,
    StemResNet,
    UNetHead,
)

with read_base():
    from ..datasets.volumes import *
    from ..schedules.adam_30e import *

data_preprocessor = dict(
    type=MultiChannelSegDataPreProcessor, size_divisor=16, test_cfg=dict(size_divisor=16)
)
small_teacher = dict(
    type=EncoderDecoder,
    data_preprocessor=data_preprocessor,
    backbone=dict(type=StemResNet, depth=18, in_channels=None, stem_channels=32, base_channels=32),
    decode_head=dict(
        type=UNetHead,
        in_channels=[32, 32, 64, 128, 256],
        widths=[64, 32, 24, 16, 16],
        num_classes=None,
        loss_decode=dict(type=FocalDiceLoss),
    ),
    test_cfg=dict(mode='whole'),
)
small_student = dict(
    small_teacher,
    backbone=dict(small_teacher['backbone'], stem_channels=16, base_channels=16),
    decode_head=dict(
        small_teacher['decode_head'], in_channels=[16, 16, 32, 64, 128], widths=[64, 32, 16, 8, 8]
    ),
)
model = dict(
    type=DiversifiedKDMLDistiller,
    teacher=small_teacher,
    students=[small_student, small_student],
    input_size=None,
    data_preprocessor=data_preprocessor,
)

# Networks without pretrained weights need a higher learning rate.
optim_wrapper['optimizer'].update(lr=2e-3)
param_scheduler = dict(type=CosineAnnealingLR, T_max=30, eta_min=1e-5)
