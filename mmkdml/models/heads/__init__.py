"""Heads that the frameworks do not have."""

from mmkdml.models.heads.binary_cls_head import BinaryLinearClsHead
from mmkdml.models.heads.unet_head import UNetHead

__all__ = ['BinaryLinearClsHead', 'UNetHead']
