"""Reading binary masks, and augmentation of an image and its maps together, by albumentations."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import albumentations as A
import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmkdml.datasets.images import read_binary_mask
from mmkdml.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadBinaryMask(BaseTransform):
    """Reads a mask as 0 (background) and 1 (foreground), as :func:`read_binary_mask` does.

    Stands in the place of mmseg's ``LoadAnnotations``, which takes the indices of a palette image
    for classes, and other values of a mask as they come.

    Required keys: ``seg_map_path``, ``seg_fields``.
    Added key: ``gt_seg_map`` (H, W), uint8, also named in ``seg_fields``.

    Raises:
        ValueError: If the mask cannot be read or is not binary.
    """

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Adds the mask."""
        results['gt_seg_map'] = read_binary_mask(results['seg_map_path'])
        results['seg_fields'].append('gt_seg_map')
        return results


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
