"""Reading NIfTI volumes as slices, and writing masks on a volume's own grid."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from mmengine.logging import print_log

from mmkdml.apis.prediction.case_files import check_channels
from mmkdml.apis.prediction.scratch import LazySlices, Scratch
from mmkdml.apis.prediction.volume import Volume, VolumeFormat, check_voxels, require_medical
from mmkdml.apis.prediction.windowing import CHUNK, own_window, scaled
from mmkdml.datasets.volumes import case_intensity, slice_axes, with_context
from mmkdml.datasets.volumes.nifti import NiftiFile, grid_difference, read_header, reading
from mmkdml.datasets.volumes.store import coarsest_axis
from mmkdml.datasets.volumes.writing import common_type

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

    The voxels are read once, in chunks, into a temporary file, from which slices are read when they
    are used; memory is bounded by a chunk and a slice. NaN becomes 0, as in nnU-Net, with a warning
    that states their number.

    Args:
        path: ``.nii`` or ``.nii.gz`` file with three dimensions, a fourth one for the channels, or
            two for a single slice; or such files, one per channel.
        plane: One of :data:`PLANES`. Ignored for a volume of a single slice.
        window: Intensities that become black and white. Default: the 0.5th and 99.5th percentile of
            each channel, or the stored intensities if ``form.raw``.
        max_voxels: Largest number of voxels, checked before they are read. Default: no limit.
        max_pixels: Largest number of pixels of a slice. Default: no limit.
        form: How the network receives the slices. Default: 8-bit gray.

    Raises:
        ValueError: If nibabel is not installed, the plane is unknown, or a file is unreadable, too
            large, also for the disk of temporary files, has another number of dimensions or
            channels, an oversized header or a singular affine, only NaN, or infinite or complex
            values; or if channels differ in shape or affine.
    """
    nibabel = require_medical('nibabel')
    check_plane(plane)
    form = form or VolumeFormat()
    paths = [Path(path)] if isinstance(path, (str, Path)) else list(map(Path, path))
    files = [read_header(one, flat=True) for one in paths]
    channels = [math.prod(file.shape[3:]) for file in files]
    check_channels(paths, channels, form.channels)
    for file in files[1:]:
        if difference := grid_difference(files[0], file):
            raise ValueError(
                f'{file.path}: expected the grid of {paths[0].name}, got {difference}. Resample '
                'the channels of a case to one grid'
            )
    shape, affine = files[0].shape[:3], files[0].affine
    check_voxels(shape, max_voxels, paths[0])
    if form.orientation not in (None, found := files[0].orientation):
        print_log(
            f'{paths[0]}: the axes have the orientation {found}, but those in training had '
            f'{form.orientation}: the slices differ from those that the network knows. Reorient '
            'the file, such as with nibabel.as_closest_canonical',
            'current',
            logging.WARNING,
        )
    to_file = _stored_axes(files[0], form.axis) if form.stored else _plane_axes(files[0], plane)
    column, row, slices = (shape[int(axis)] for axis in to_file[:, 0])
    check_voxels((row, column), max_pixels, paths[0])
    try:
        voxels = Scratch((slices, sum(channels), row, column), common_type(files))
    except OSError as error:
        raise ValueError(
            f'{paths[0]}: expected space for its voxels in {tempfile.gettempdir()}, got {error}. '
            'Free space, or set TMPDIR to another folder'
        ) from error
    _fill(voxels, files, to_file)
    show: Callable[[np.ndarray], np.ndarray] = np.array
    if window is not None or not form.raw:
        show = _to_8_bits(voxels, window, paths[0])
    with reading(paths[0]):
        header = nibabel.load(paths[0]).header
    number = sum(channels) * (2 * form.context + 1)
    if form.stored:
        images = LazySlices(
            lambda index: with_context(voxels.open(), index, form.context),
            (slices, row, column, number),
        )
        intensity = case_intensity(voxels.open()[index] for index in range(slices))
        return Volume(images, affine, to_file, header, intensity=intensity)
    shown = (slices, row, column, number)[: 3 + (number > 1)]
    images = LazySlices(lambda index: show(_image(voxels, index)), shown)
    return Volume(images, affine, to_file, header)


def _stored_axes(file: NiftiFile, axis: int | None) -> np.ndarray:
    """Return the transform to the file of slices along an axis, in the order of training."""
    if file.shape[:3].count(1) == 1:
        axis = file.shape.index(1)
    elif axis is None:
        axis = coarsest_axis([file.shape[:3]], [file.spacing])
    slices, row, column = slice_axes(axis)
    return np.array([[column, 1], [row, 1], [slices, 1]])


def _plane_axes(file: NiftiFile, plane: str) -> np.ndarray:
    """Return the transform to the file of slices in a plane, or in that of the only slice."""
    orientations = require_medical('nibabel').orientations
    stored = orientations.io_orientation(file.affine)
    if file.shape[:3].count(1) == 1:
        through = stored[file.shape.index(1), 0]
        plane = next(
            name
            for name, codes in PLANES.items()
            if orientations.axcodes2ornt(codes)[2, 0] == through
        )
    displayed = orientations.axcodes2ornt(PLANES[plane])
    return orientations.ornt_transform(displayed, stored)


def _fill(voxels: Scratch, files: Sequence[NiftiFile], to_file: np.ndarray) -> None:
    """Copy the voxels of all channels to (slices, channels, rows, columns)."""
    turned = require_medical('nibabel').orientations.apply_orientation
    before = 0
    for file in files:
        absent: list[int] = []
        number, channel = math.prod(file.shape), 0
        for channel, start, slab in file.slabs(absent.append):
            target = turned(voxels.open()[:, before + channel].transpose(2, 1, 0), to_file)
            target[..., start : start + slab.shape[2]] = slab
        if sum(absent) == number:
            raise ValueError(f'{file.path}: expected finite intensities, got only NaN')
        if absent:
            message = f'{file.path}: {sum(absent)} of {number} voxels are NaN and are read as 0'
            print_log(message, 'current', logging.WARNING)
        before += channel + 1


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

    windows = [own_window(partial(chunks, one), window, path) for one in range(voxels.shape[1])]

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
