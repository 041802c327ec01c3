"""Transforms that load images and masks, and augmentation by albumentations."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from mmcv.transforms import BaseTransform, LoadImageFromFile
from mmengine.logging import print_log

from mmkdml.datasets.channels import MAX_CHANNELS, is_numpy, numpy_header, read_channels
from mmkdml.datasets.class_masks import MASK_TABLE, read_class_mask
from mmkdml.datasets.images import ImageHeader, read_binary_mask, read_header, read_image_and_header
from mmkdml.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadCheckedImage(LoadImageFromFile):
    """Load an image with the checks of converters and prediction.

    Replaces mmcv's ``LoadImageFromFile``, which darkens images of 16 bits per channel, drops
    transparency and all pages but the first, and converts CMYK. The pixels of 8-bit grey and RGB
    files are the same.

    Required key: ``img_path``.
    Added keys: ``img`` (H, W, 3) uint8 BGR, rotated by its EXIF orientation; ``img_shape``,
    ``ori_shape``; ``image_header``, used by :class:`LoadClassMask`.

    Args:
        to_float32: Convert the pixels to float32.
        color_type: ``'color'``, or ``'grayscale'`` for ``img`` (H, W).

    Raises:
        ValueError: If ``color_type`` is invalid, or the file is unreadable or not supported.
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
class LoadMultiChannelImage(LoadImageFromFile):
    """Load an image with any number of channels; see ``channels.read_channels``.

    Required key: ``img_path``.
    Added keys: ``img`` (H, W, C) of uint8, uint16, int16 or float32, in the order of the file; with
    three channels reversed, as by the frameworks' loaders (BGR). ``img_shape``, ``ori_shape`` and
    ``image_header`` as of :class:`LoadCheckedImage`.

    Args:
        channels: Number of channels C, at least 1. Other files are refused.

    Raises:
        ValueError: If ``channels`` is invalid, or the file is unreadable or not supported.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(color_type='unchanged')
        if type(channels) is not int or not 1 <= channels <= MAX_CHANNELS:
            raise ValueError(f'channels: expected 1 to {MAX_CHANNELS}, got {channels!r}')
        self.channels = channels

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the image."""
        pixels, results['image_header'] = read_channels(results['img_path'], self.channels)
        results['img'] = reversed_if_rgb(pixels)
        results['img_shape'] = results['ori_shape'] = pixels.shape[:2]
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(channels={self.channels})'


def reversed_if_rgb(pixels: np.ndarray) -> np.ndarray:
    """Reverse the channels of an image (H, W, 3), between RGB and the BGR of the frameworks."""
    return np.ascontiguousarray(pixels[..., ::-1]) if pixels.shape[2:] == (3,) else pixels


@TRANSFORMS.register_module()
class LoadClassMask(BaseTransform):
    """Load a mask as class indices, by the table of its data set; without one, a binary mask.

    Binary masks are read as 0 (background) and 1 (foreground) by ``images.read_binary_mask``,
    others by ``class_masks.read_class_mask``, with 255 for ignored pixels. Replaces mmseg's
    ``LoadAnnotations``, which uses the indices of a palette image as classes and accepts any value.
    A mask drawn on the stored pixels of an image with EXIF orientation is rotated with the image.

    Required keys: ``seg_map_path``, ``seg_fields``.
    Optional keys: ``mask_table``, a ``class_masks.ClassTable``; ``img_path``, the image that the
    mask must fit; ``image_header``, read from the image if missing; ``masks_drawn_on``,
    ``'stored'`` or ``'shown'``.
    Added key: ``gt_seg_map`` (H, W), uint8, also appended to ``seg_fields``.

    Raises:
        ValueError: If the mask is unreadable, has other values or does not fit its image.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the mask."""
        path, table = results['seg_map_path'], results.get(MASK_TABLE)
        how = header_of(results), results.get('masks_drawn_on')
        if table is None:
            results['gt_seg_map'] = read_binary_mask(path, *how)
        else:
            results['gt_seg_map'] = read_class_mask(path, table, *how)
        results['seg_fields'].append('gt_seg_map')
        return results


@TRANSFORMS.register_module()
class LoadBinaryMask(LoadClassMask):
    """:class:`LoadClassMask` under its former name, which the included configs have.

    Changing it in them would change the recorded settings of existing runs.
    """


def header_of(results: Mapping[str, Any]) -> ImageHeader | None:
    """Return the header of a sample's image; None if only another loader can read the file."""
    if 'image_header' in results or 'img_path' not in results:
        return results.get('image_header')
    try:
        return read_header(results['img_path'])
    except ValueError:  # a format without EXIF orientation
        return numpy_header(results['img_path']) if is_numpy(results['img_path']) else None


@TRANSFORMS.register_module()
class AlbumentationsTransform(BaseTransform):
    """Apply albumentations transforms to ``img`` and to every map named in ``seg_fields``.

    Augmentation is reproducible: each call seeds one random stream for all transforms from NumPy's
    global state, which mmengine seeds in each worker (about 20 us per call). By default,
    albumentations 2 ignores NumPy's seed, and a ``Compose`` with a seed gives all of its transforms
    equal streams. In training, :class:`~mmkdml.engine.ExactResumeHook` seeds NumPy for each sample;
    without that hook set ``persistent_workers=True``, or every epoch repeats the augmentation of
    the first.

    Maps are resampled with nearest neighbours. Pixels outside of the original image are 0 in image
    and maps unless a transform sets another value. Images with 3 channels are converted to RGB for
    the transforms, and back to mmcv's BGR. Spatial transforms support any number of channels and
    any type. Transforms of colors need 3 channels, and those of intensities uint8, or float32 in
    [0, 1], to which albumentations would clip other values.

    Args:
        transforms: Transforms of albumentations, or dicts with a class or its name as ``type`` and
            its arguments. Compositions such as ``OneOf`` contain further ``transforms``.

    Required keys: ``img`` (H, W, C) or (H, W), the maps named in ``seg_fields`` (H, W).
    Modified keys: the same, and ``img_shape``.

    Raises:
        TypeError: If a transform has another type.
        ValueError: If a transform has an unknown name or invalid arguments; or if it changes
            intensities, and an image is float32 outside of [0, 1] (only a warning for gray and
            color images).
    """

    def __init__(
        self, transforms: Sequence[Mapping[str, Any] | A.BasicTransform | A.BaseCompose]
    ) -> None:
        self.compose = _instantiate(
            A.Compose,
            dict(
                transforms=_build_each(transforms),
                strict=True,
                mask_interpolation=cv2.INTER_NEAREST,
            ),
        )
        self.intensity_transforms = _intensity_transforms(self.compose)
        self._warned = False

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Augment image and maps."""
        seed = np.random.randint(2**32, dtype=np.uint64)
        self.compose.set_random_state(np.random.default_rng(seed), random.Random(int(seed)))
        color = results['img'].ndim == 3 and results['img'].shape[2] == 3
        image = _swap_channels(results['img']) if color else results['img']
        if self.intensity_transforms and image.dtype == np.float32:
            problem = _clipping(image, self.intensity_transforms)
            if problem and not (color or image.ndim == 2):
                raise ValueError(problem)
            if problem and not self._warned:  # to_float32 of the frameworks' loaders
                print_log(problem, 'current', logging.WARNING)
                self._warned = True
        fields = results.get('seg_fields', [])
        maps = dict(masks=[results[field] for field in fields]) if fields else {}
        out = self.compose(image=np.ascontiguousarray(image), **maps)
        image = out['image']
        results['img'] = _swap_channels(image) if color else np.ascontiguousarray(image)
        results['img_shape'] = image.shape[:2]
        results.update(zip(fields, out.get('masks', []), strict=True))
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.compose.transforms})'


class _Transpose(A.Transpose):
    """``Transpose`` by OpenCV, which is much faster than a copy of NumPy's transposed view."""

    def apply(self, img: np.ndarray, **params: Any) -> np.ndarray:
        by_opencv = img.dtype in (np.uint8, np.float32) and img.shape[2:] in ((), (3,))
        return cv2.transpose(img) if by_opencv else super().apply(img, **params)


def _intensity_transforms(transform: Any) -> list[str]:
    """Return the names of the transforms, at any depth, that change the image only."""
    parts = getattr(transform, 'transforms', None) or []
    own = [type(transform).__name__] if isinstance(transform, A.ImageOnlyTransform) else []
    return [*own, *(name for part in parts for name in _intensity_transforms(part))]


def _clipping(image: np.ndarray, transforms: Sequence[str]) -> str:
    """Return the problem of an image whose values albumentations may clip, empty if it fits."""
    low, high = float(image.min()), float(image.max())
    if low >= 0 and high <= 1:
        return ''
    return (
        f'Invalid image for {", ".join(transforms)}: expected float32 in [0, 1], to which '
        f'albumentations clips, got [{low:g}, {high:g}]. Use spatial transforms only, or scale '
        'the images to [0, 1] or uint8'
    )


def _swap_channels(image: np.ndarray) -> np.ndarray:
    """Convert BGR to RGB or back. OpenCV is much faster than NumPy, but lacks some types."""
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
        kind = kind.removeprefix('albumentations.')  # as in a dumped config
        if not isinstance(getattr(A, kind, None), type):
            raise ValueError(f'albumentations {A.__version__} has no transform {kind!r}')
        kind = getattr(A, kind)
    kind = _Transpose if kind is A.Transpose else kind
    if 'transforms' in args:
        args['transforms'] = _build_each(args['transforms'])
    return _instantiate(kind, args)


def _build_each(transforms: Any) -> list[A.BasicTransform | A.BaseCompose]:
    if isinstance(transforms, str) or not isinstance(transforms, Sequence):
        raise TypeError(f'expected a list of transforms of albumentations, got {transforms!r}')
    return [_build(transform) for transform in transforms]


def _instantiate(kind: Any, args: dict[str, Any]) -> Any:
    try:
        return kind(**args)
    except Exception as error:  # pydantic's errors, and those of unchecked arguments
        raise ValueError(
            f'Invalid arguments of albumentations.{getattr(kind, "__name__", kind)}, {args}: '
            f'{error}'
        ) from error
