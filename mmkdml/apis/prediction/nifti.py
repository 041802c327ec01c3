"""Reading NIfTI volumes as slices, and writing masks on a volume's own grid."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from mmkdml.apis.prediction.case_files import check_channels
from mmkdml.apis.prediction.nifti_files import NiftiFile, check_same_grid, open_nifti
from mmkdml.apis.prediction.scratch import LazySlices, Scratch
from mmkdml.apis.prediction.volume import Volume, VolumeFormat, check_voxels, require_medical
from mmkdml.apis.prediction.windowing import CHUNK, own_window, scaled

#: Directions of columns, rows and slices of each plane, in the radiological convention: the
#: patient's left on the right-hand side, anterior or superior at the top.
PLANES = {'axial': ('L', 'P', 'S'), 'coronal': ('L', 'I', 'P'), 'sagittal': ('P', 'I', 'L')}


def check_plane(plane: str) -> None:
    """Raise ValueError unless ``plane`` is one of :data:`PLANES`."""
    if plane not in PLANES:
        raise ValueError(f'Invalid plane: expected one of {", ".join(PLANES)}, got {plane!r}')


def read_nifti(
    path: str | Path | Sequence[str | Path],
    plane: str = 'axial',
    window: tuple[float, float] | None = None,
    max_voxels: int | None = None,
    max_pixels: int | None = None,
    form: VolumeFormat | None = None,
) -> Volume:
    """Read a NIfTI volume and cut it into slices along the axes nearest to a plane.

    The voxels are read once, in parts, into a temporary file, from which slices are taken when they
    are used; memory is bounded by a part and a slice. NaN becomes 0, as in nnU-Net, with a warning
    that has their number.

    Args:
        path: ``.nii`` or ``.nii.gz`` file with three dimensions, a fourth one for the channels, or
            two for a single slice; or such files, one per channel.
        plane: One of :data:`PLANES`. A volume of a single slice is not cut across it.
        window: Intensities that become black and white. Default: the 0.5th and 99.5th percentile of
            each channel, or the stored intensities if ``form.raw``.
        max_voxels: Largest number of voxels, checked before they are read. Default: no limit.
        max_pixels: Largest number of pixels of a slice. Default: no limit.
        form: How the network receives the slices. Default: 8-bit gray.

    Raises:
        OSError: If the disk of temporary files has too little space.
        ValueError: If nibabel is not installed, the plane is unknown, or a file is unreadable, too
            large, has another number of dimensions or channels, an oversized header or a singular
            affine, only NaN, or infinite or complex values; or if channels differ in shape or
            affine.
    """
    nibabel = require_medical('nibabel')
    check_plane(plane)
    form = form or VolumeFormat()
    paths = [Path(path)] if isinstance(path, (str, Path)) else list(map(Path, path))
    files = [open_nifti(one) for one in paths]
    check_channels(paths, [file.channels for file in files], form.channels)
    check_same_grid(files)
    affine, shape, channels = files[0].affine, files[0].shape, sum(one.channels for one in files)
    check_voxels(shape, max_voxels, paths[0])
    orientations = nibabel.orientations
    stored = orientations.io_orientation(affine)
    displayed = orientations.axcodes2ornt(PLANES[_plane_of(shape, stored, plane)])
    turn = orientations.ornt_transform(stored, displayed)
    column, row, slices = (shape[int(axis)] for axis in np.argsort(turn[:, 0]))
    check_voxels((row, column), max_pixels, paths[0])
    kind = np.result_type(*(file.dtype for file in files))
    voxels = Scratch((slices, channels, row, column), kind if kind.itemsize < 4 else np.float32)
    to_file = orientations.ornt_transform(displayed, stored)
    _fill(voxels, files, to_file)
    show: Callable[[np.ndarray], np.ndarray] = np.array
    if window is not None or not form.raw:
        show = _to_8_bits(voxels, window, paths[0])
    shown = (slices, row, column, channels)[: 3 + (channels > 1)]
    images = LazySlices(lambda index: show(_image(voxels, index)), shown)
    return Volume(images, affine, to_file, files[0].image.header)


def _plane_of(shape: Sequence[int], stored: np.ndarray, plane: str) -> str:
    """Return the plane, or that of the only slice of a file."""
    if sorted(shape)[:2].count(1) != 1:
        return plane
    codes = require_medical('nibabel').orientations.ornt2axcodes(stored)
    through = codes[shape.index(1)]
    opposite = dict(zip('LRAPIS', 'RLPASI', strict=True))
    return next(name for name, (*_, end) in PLANES.items() if end in (through, opposite[through]))


def _fill(voxels: Scratch, files: Sequence[NiftiFile], to_file: np.ndarray) -> None:
    """Copy the voxels of all channels to (slices, channels, rows, columns)."""
    turned = require_medical('nibabel').orientations.apply_orientation
    before = 0
    for file in files:
        missing = number = 0
        for channel, rows, layers, part in file.parts():
            if part.dtype.kind == 'f':
                absent = np.isnan(part)
                missing += int(absent.sum())
                part[absent] = 0
                if not np.isfinite(part).all():
                    raise ValueError(
                        f'{file.path}: expected finite intensities, got infinity. Set such voxels '
                        'to NaN, which is read as 0, or to an intensity'
                    )
            number += part.size
            target = voxels.open()[:, before + channel].transpose(2, 1, 0)
            turned(target, to_file)[:, rows, layers] = part
        if missing == number:
            raise ValueError(f'{file.path}: expected finite intensities, got only NaN')
        if missing:
            message = f'{file.path}: {missing} of {number} voxels are NaN and are read as 0'
            print_log(message, 'current', logging.WARNING)
        before += file.channels


def _image(voxels: Scratch, index: int) -> np.ndarray:
    """Return a view of a slice: (H, W), or (H, W, C) of several channels."""
    pixels = voxels.open()[index].transpose(1, 2, 0)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _to_8_bits(
    voxels: Scratch, window: tuple[float, float] | None, path: Path
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that maps the intensities of each channel to uint8."""

    def chunks(channel: int) -> Iterator[np.ndarray]:
        for index in range(voxels.shape[0]):
            for start in range(0, math.prod(voxels.shape[2:]), CHUNK):
                part = voxels.open()[index, channel].reshape(-1)[start : start + CHUNK]
                yield part.astype(np.float32)

    windows = [
        own_window(lambda channel=one: chunks(channel), window, path)
        for one in range(voxels.shape[1])
    ]

    def show(pixels: np.ndarray) -> np.ndarray:
        if pixels.ndim == 2:
            return scaled(pixels, windows[0])
        bands = [scaled(pixels[..., one], ends) for one, ends in enumerate(windows)]
        return np.stack(bands, axis=2)

    return show


def write_mask(masks: np.ndarray, volume: Volume, path: str | Path) -> None:
    """Write a mask as NIfTI on the voxel grid of the volume it was predicted for.

    Args:
        masks: (N, H, W), class indices, one per pixel of the volume's slices.
        volume: The volume; its affine and spatial header fields are kept.
        path: ``.nii`` or ``.nii.gz`` file to write.

    Raises:
        ValueError: If nibabel is not installed, or the masks and slices differ in shape.
    """
    nibabel = require_medical('nibabel')
    shape = volume.slices.shape[:3]
    if masks.shape != shape:
        raise ValueError(f'Invalid masks: expected shape {shape}, as the slices, got {masks.shape}')
    voxels = nibabel.orientations.apply_orientation(masks.transpose(2, 1, 0), volume.to_file)
    if volume.header is not None and len(volume.header.get_data_shape()) == 2:
        voxels = voxels[..., 0]
    is_nifti2 = isinstance(volume.header, nibabel.Nifti2Header)
    kind = nibabel.Nifti2Image if is_nifti2 else nibabel.Nifti1Image
    image = kind(voxels.astype(np.uint8, copy=False), volume.affine, volume.header)
    image.set_data_dtype(np.uint8)
    image.header.set_intent('label')
    image.header['cal_min'] = image.header['cal_max'] = 0  # the volume's range would hide the mask
    if volume.header is None:
        image.header.set_xyzt_units('mm')
        image.set_sform(volume.affine, 'scanner')
    nibabel.save(image, path)
