"""Volumes that are stored as slices: store, normalization, transforms, data set and writing.

Only the store is imported here, because split files and image reading need it.
"""

from mmkdml.datasets.volumes.store import (
    IGNORED,
    Case,
    case_intensity,
    read_case,
    read_slice,
    slice_axes,
    with_context,
)

__all__ = [
    'IGNORED',
    'Case',
    'case_intensity',
    'read_case',
    'read_slice',
    'slice_axes',
    'with_context',
]
