"""Transforms that load images and binary masks, and joint augmentation by albumentations."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile

from mmkdml.datasets.images import ImageHeader, read_binary_mask, read_header, read_image_and_header
from mmkdml.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """Load an image by the reader that converters and prediction use, :func:`read_image`.

    Replaces mmcv's ``LoadImageFromFile``, which turns 16 bits per channel into dark images, drops
    transparency and all pages but the first, and decodes CMYK. Pixels of 8-bit grey and RGB files
    are the same.

    Required key: ``img_path``.
    Added keys: ``img`` (H, W, 3) uint8 BGR, turned by its EXIF orientation; ``img_shape``,
    ``ori_shape``; ``image_header``, which :class:`LoadBinaryMask` makes the mask fit to.

    Args:
        to_float32: Convert the pixels to float32.
        color_type: ``'color'``, or ``'grayscale'`` for ``img`` (H, W).

    Raises:
        ValueError: If ``color_type`` is neither, or the file is unreadable or not supported.
    """

    def __init__(self, to_float32: bool = False, color_type: str = 'color') -> None:
        super().__init__(to_float32, color_type)
        orders = dict(color='BGR', grayscale='L')
        if color_type not in orders:
            raise ValueError(f'color_type: expected color or grayscale, got {color_type!r}')
        self.order = orders[color_type]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the image."""
        pixels, results['image_header'] = read_image_and_header(results['img_path'], self.order)
        results['img'] = pixels.astype(np.float32) if self.to_float32 else pixels
        results['img_shape'] = results['ori_shape'] = pixels.shape[:2]
        return results


@TRANSFORMS.register_module()
class LoadBinaryMask(BaseTransform):
    """Load a mask as 0 (background) and 1 (foreground), as :func:`read_binary_mask` does.

    Replaces mmseg's ``LoadAnnotations``, which takes the indices of a palette image for classes,
    and other values of a mask as they are. A mask that was drawn on the stored pixels of an image
    with EXIF orientation is turned like the image.

    Required keys: ``seg_map_path``, ``seg_fields``.
    Optional keys: ``img_path``, the image that the mask must fit; ``image_header``, read from it if
    missing; ``masks_drawn_on``, ``'stored'`` or ``'shown'``.
    Added key: ``gt_seg_map`` (H, W), uint8, also named in ``seg_fields``.

    Raises:
        ValueError: If the mask cannot be read, is not binary or does not fit its image.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the mask."""
        results['gt_seg_map'] = read_binary_mask(
            results['seg_map_path'], header_of(results), results.get('masks_drawn_on')
        )
        results['seg_fields'].append('gt_seg_map')
        return results


def header_of(results: Mapping[str, Any]) -> ImageHeader | None:
    """Return the header of a sample's image; None if the image is not a file that Pillow knows."""
    if 'image_header' in results or 'img_path' not in results:
        return results.get('image_header')
    try:
        return read_header(results['img_path'])
    except ValueError:  # of other loaders, whose files have no EXIF orientation
        return None


@TRANSFORMS.register_module()
class AlbumentationsTransform(BaseTransform):
    """Applies albumentations transforms to ``img`` and to every map named in ``seg_fields``.

    Augmentation follows the seed of the run. albumentations 2 has random numbers of its own, which
    numpy's seed does not reach: a run could not be repeated, and workers forked from one process
    would all draw the same. With a seed of its own a ``Compose`` hands equal streams to all its
    transforms, so that two flips come together or not at all. Here each call seeds one stream, for
    all transforms, from numpy's global state, which mmengine seeds for each worker. That takes
    about 20 us. In training, :class:`~mmkdml.engine.ExactResumeHook` seeds that one for each
    sample; without it keep ``persistent_workers=True``, or each epoch repeats the last one's.

    Maps are resampled to the nearest neighbour, so that no value comes up that was not there; what
    enters from outside is 0 in image and maps unless a transform says otherwise. 3-channel images
    are handed over as RGB, as colour transforms expect, and come back BGR, as mmcv reads them.

    Args:
        transforms: Transforms of albumentations: built ones, or dicts with a class or its name as
            ``type`` and its arguments, among them ``transforms`` of compositions like ``OneOf``.

    Required keys: ``img`` (H, W, C) or (H, W), the maps named in ``seg_fields`` (H, W).
    Modified keys: these, and ``img_shape``.

    Raises:
        TypeError: If a transform is neither of these.
        ValueError: If a transform has an unknown name, or arguments that it cannot have.
    """

    def __init__(
        self, transforms: Sequence[Mapping[str, Any] | A.BasicTransform | A.BaseCompose]
    ) -> None:
        self.compose = _made(
            A.Compose,
            dict(
                transforms=_build_each(transforms),
                strict=True,
                mask_interpolation=cv2.INTER_NEAREST,
            ),
        )

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replaces image and maps by augmented ones."""
        seed = np.random.randint(2**32, dtype=np.uint64)
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(int(seed)))
        colour = results['img'].ndim == 3 and results['img'].shape[2] == 3
        image = _swap_channels(results['img']) if colour else results['img']
        fields = results.get('seg_fields', [])
        maps = dict(masks=[results[field] for field in fields]) if fields else {}
        out = self.compose(image=np.ascontiguousarray(image), **maps)
        image = out['image']
        results['img'] = _swap_channels(image) if colour else np.ascontiguousarray(image)
        results['img_shape'] = image.shape[:2]
        results.update(zip(fields, out.get('masks', []), strict=True))
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.compose.transforms})'


def _swap_channels(image: np.ndarray) -> np.ndarray:
    """BGR to RGB or back; NumPy takes a hundred times as long as OpenCV, which lacks some types."""
    if image.dtype in (np.uint8, np.uint16, np.float32):
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(image[..., ::-1])


def _build(transform: Any) -> A.BasicTransform | A.BaseCompose:
    if isinstance(transform, A.BasicTransform | A.BaseCompose):
        return transform
    if not isinstance(transform, Mapping) or 'type' not in transform:
        raise TypeError(
            "expected a transform of albumentations or a dict with the key 'type', got "
            f'{transform!r}'
        )
    args = dict(transform.items())
    kind = args.pop('type')
    if isinstance(kind, str):
        kind = kind.removeprefix('albumentations.')  # of a class in a config that was dumped
        if not isinstance(getattr(A, kind, None), type):
            raise ValueError(f'albumentations {A.__version__} has no transform {kind!r}')
        kind = getattr(A, kind)
    if 'transforms' in args:
        args['transforms'] = _build_each(args['transforms'])
    return _made(kind, args)


def _build_each(transforms: Any) -> list[A.BasicTransform | A.BaseCompose]:
    if isinstance(transforms, str) or not isinstance(transforms, Sequence):
        raise TypeError(f'expected a list of transforms of albumentations, got {transforms!r}')
    return [_build(transform) for transform in transforms]


def _made(kind: Any, args: dict[str, Any]) -> Any:
    try:
        return kind(**args)
    except Exception as error:  # pydantic's, and what comes of arguments it does not look at
        raise ValueError(
            f'albumentations cannot make {getattr(kind, "__name__", kind)} of {args}: {error}'
        ) from error
