"""Projectors, which match feature maps or logits of different shapes."""

from mmkdml.models.projectors.conv_reg import ConvReg
from mmkdml.models.projectors.maps import MapProjector
from mmkdml.models.projectors.projectors import (
    ConvProjector,
    IdentityProjector,
    InterpolateProjector,
    LinearProjector,
    Projector,
)
from mmkdml.models.projectors.simkd import SimKDProjector

__all__ = [
    'ConvProjector',
    'ConvReg',
    'IdentityProjector',
    'InterpolateProjector',
    'LinearProjector',
    'MapProjector',
    'Projector',
    'SimKDProjector',
]
