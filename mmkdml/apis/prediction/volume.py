"""Volumes as slices, and the checks that all volume formats share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from mmkdml.apis.prediction.scratch import LazySlices
from mmkdml.optional import require


@dataclass(frozen=True)
class VolumeFormat:
    """How a network receives the slices of a volume.

    Attributes:
        channels: Numbers of channels that a case may have.
        raw: Keep the stored intensities unless a window is given.
        stored: Slice the volume as the converter does for training, along ``axis`` in the
            orientation of the file, and add the intensities of the case.
        axis: Axis of the file; None: the one with the largest spacing.
        orientation: Directions of the axes of the files in training; None if unknown.
        context: Number of neighbors on each side of a slice, whose channels are added.
    """

    channels: tuple[int, ...] = (1,)
    raw: bool = False
    stored: bool = False
    axis: int | None = None
    orientation: str | None = None
    context: int = 0


@dataclass(frozen=True, eq=False)
class Volume:
    """A volume as the slices that a network receives, with its position in space.

    Attributes:
        slices: (N, H, W) uint8, where 0 and 255 are the ends of the window; (N, H, W, C) for
            several channels; of another type for unchanged intensities.
        affine: (4, 4), maps the file's voxel indices (i, j, k) to millimeters, RAS+ as in NIfTI.
        to_file: (3, 2), nibabel's orientation transform from (column, row, slice) to (i, j, k).
        header: Header of the NIfTI file; None for DICOM.
        has_spacing: False if a radiograph does not have the size of its pixels.
        frames: File and number from 0 of the frame of each slice of a DICOM series.
        intensity: Statistics of each channel, see
            :func:`~mmkdml.datasets.volumes.case_intensity`; None unless the network needs them.
    """

    slices: np.ndarray | LazySlices
    affine: np.ndarray
    to_file: np.ndarray
    header: Any = None
    has_spacing: bool = True
    frames: tuple[tuple[Path, int], ...] = ()
    intensity: Sequence[tuple[float, ...]] | None = None

    @property
    def spacing(self) -> tuple[float, float] | None:
        """Height and width of a pixel of a slice in millimeters.

        None if a NIfTI file has another unit of length, or no unit and only sizes of 1 (written by
        tools that do not know the spacing), or if a radiograph has no spacing.
        """
        if not self.has_spacing:
            return None
        sizes = np.linalg.norm(self.affine[:3, :3], axis=0)
        unit = 'mm' if self.header is None else self.header.get_xyzt_units()[0]
        if unit not in ('mm', 'unknown') or (unit == 'unknown' and np.allclose(sizes, 1)):
            return None
        (column, _), (row, _), _ = self.to_file.astype(int)
        return float(sizes[row]), float(sizes[column])


def require_medical(module: str) -> ModuleType:
    """Import nibabel or pydicom; see :func:`mmkdml.optional.require`."""
    return require(module, extra='medical', purpose='NIfTI and DICOM files')


@contextmanager
def reading(path: str | Path, kind: str) -> Iterator[None]:
    """Convert any error of a block that reads a file to one line with the file's name.

    Raises:
        ValueError: In place of any other error.
    """
    try:
        with warnings.catch_warnings():  # about broken tags and large images, which raise below
            warnings.simplefilter('ignore')
            yield
    except Exception as error:  # libraries raise nearly anything for a broken file
        reason = ' '.join(str(error).split())
        raise ValueError(f'{path}: unreadable {kind} ({type(error).__name__}: {reason})') from error


def check_voxels(shape: Sequence[int], limit: int | None, source: str | Path) -> None:
    """Raise ValueError if a volume or slice has more than ``limit`` voxels."""
    number = int(np.prod(shape, dtype=float))
    if limit is not None and number > limit:
        raise ValueError(
            f'{source}: {number / 1e6:.0f} megavoxels {tuple(shape)} are more than '
            f'{limit / 1e6:g}. Cut it into parts, or raise the limit (max_pixels, '
            '--max-megapixels); a volume may have ten times as many voxels'
        )
