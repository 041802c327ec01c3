"""Registered projectors."""

from mmkdml.models.projectors.projectors import (
    ConvProjector,
    IdentityProjector,
    InterpolateProjector,
    LinearProjector,
    Projector,
)

__all__ = [
    'ConvProjector',
    'IdentityProjector',
    'InterpolateProjector',
    'LinearProjector',
    'Projector',
]
