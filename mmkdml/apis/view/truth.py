"""True masks of the viewer, from files with the names of the images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmkdml.apis.prediction import Predictor, ReadOptions
from mmkdml.apis.prediction.box_outputs import class_names
from mmkdml.apis.prediction.inputs import Case, find_sources
from mmkdml.apis.prediction.volume import Volume, reading, require_medical
from mmkdml.datasets.images import read_pages
from mmkdml.evaluation.mask_panels import IGNORED

_ENDING = '_mask'


class TruthFolder:
    """True masks by case.

    The mask of a case has its name, with or without ``_mask``: ``truth/scan.png`` or
    ``truth/scan_mask.tif`` belongs to ``scan.png``. With two classes, foreground is 1 or
    255; otherwise masks have class indices, and 255 is ignored. Masks of volumes are NIfTI
    files on the grid of the volume.

    Args:
        folder: The folder, searched recursively.
        predictor: The run.
        read: Limits of the files' sizes.

    Raises:
        FileNotFoundError: If the folder does not exist.
        ValueError: If it contains no images, or the run is not a segmentation run.
    """

    def __init__(self, folder: Path, predictor: Predictor, read: ReadOptions) -> None:
        if predictor.task != 'segmentation':
            raise ValueError(
                f'--truth: expected a segmentation run, got one of {predictor.task}. Omit images '
                'and --truth to view the test split with its truth'
            )
        if not folder.is_dir():
            raise FileNotFoundError(f'No such folder of true masks: {folder}')
        self._number, self._max_pixels = len(class_names(predictor)), read.max_pixels
        self.files = {
            source.name.removesuffix(_ENDING): source.files[0] for source in find_sources(folder)
        }

    def read(self, case: Case, size: tuple[int, int]) -> list[np.ndarray | None]:
        """Read the mask of each image of a case; None for all if there is no file.

        Args:
            case: The case.
            size: Height and width of its images.

        Returns:
            Class indices (H, W), uint8, where 255 is ignored.

        Raises:
            ValueError: If the file is unreadable, or does not fit the images or the classes.
        """
        path = self.files.get(case.source.name)
        if path is None:
            return [None] * len(case.images)
        volume = case.volume
        masks = _pages(path, self._max_pixels) if volume is None else _slices(path, volume)
        shape, expected = (len(masks), *masks[0].shape), (len(case.images), *size)
        if shape != expected:
            raise ValueError(f'{path}: expected a mask of the size {expected}, got {shape}')
        values = np.unique(np.concatenate([np.unique(one) for one in masks]))
        if self._number == 2 and values.max() in (1, IGNORED) and not set(values[:-1]) - {0}:
            return [(one > 0).astype(np.uint8) for one in masks]
        if ((values >= self._number) & (values != IGNORED)).any() or values.min() < 0:
            raise ValueError(
                f'{path}: expected class indices from 0 to {self._number - 1}, or {IGNORED} where '
                f'pixels are ignored, got {", ".join(f"{one:g}" for one in values[:8])}'
            )
        return [one.astype(np.uint8) for one in masks]


def _pages(path: Path, max_pixels: int) -> list[np.ndarray]:
    pages = [page[..., None] if page.ndim == 2 else page for page in read_pages(path, max_pixels)]
    if any((page != page[..., :1]).any() for page in pages):
        raise ValueError(f'{path}: expected a gray mask, got colors. Save class indices in gray')
    return [page[..., 0] for page in pages]


def _slices(path: Path, volume: Volume) -> np.ndarray:
    nibabel = require_medical('nibabel')
    with reading(path, 'NIfTI'):
        image = nibabel.load(path)
        shape, affine = image.shape[:3], image.affine
    orientations = nibabel.orientations
    to_file = volume.to_file.astype(int)
    from_file = np.empty_like(to_file)
    from_file[to_file[:, 0]] = np.column_stack([range(3), to_file[:, 1]])
    grid = tuple(np.array(volume.slices.shape[::-1])[from_file[:, 0]].tolist())
    if shape != grid or not np.allclose(affine, volume.affine, atol=1e-3):
        raise ValueError(
            f'{path}: expected the affine and the {grid} voxels of its image, got {shape} '
            f'and {affine.tolist()}. Resample the mask to the image'
        )
    with reading(path, 'NIfTI'):
        voxels = np.asanyarray(image.dataobj).reshape(shape)
    if not np.array_equal(voxels, np.round(voxels)):
        raise ValueError(f'{path}: expected class indices, got fractions')
    return orientations.apply_orientation(voxels, from_file).transpose(2, 1, 0)
