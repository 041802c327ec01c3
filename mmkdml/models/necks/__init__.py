"""Necks that the frameworks do not have."""

from mmkdml.models.necks.conv_block_neck import ConvBlockNeck
from mmkdml.models.necks.simkd_neck import SimKDNeck

__all__ = ['ConvBlockNeck', 'SimKDNeck']
