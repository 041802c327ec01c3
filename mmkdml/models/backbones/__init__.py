"""Backbones that the frameworks do not have."""

from mmkdml.models.backbones.pretrained_timm import PretrainedTIMMBackbone
from mmkdml.models.backbones.stem_resnet import StemResNet

__all__ = ['PretrainedTIMMBackbone', 'StemResNet']
