"""Necks that the frameworks lack."""

from mmkdml.models.necks.conv_block_neck import ConvBlockNeck

__all__ = ['ConvBlockNeck']
