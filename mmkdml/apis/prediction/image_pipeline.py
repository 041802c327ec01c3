"""A config's test pipeline for images that have no truth."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile, RandomFlip, TestTimeAug
from mmengine.config import Config

from mmkdml.datasets import LoadBinaryMask
from mmkdml.inspection.config import use_default_scope
from mmkdml.registry import TRANSFORMS

_TRUTH = (LoadAnnotations, LoadBinaryMask)  # mmseg's is one of mmcv's
_FLIPS = ('flip', 'flip_direction')


class ImagePipeline:
    """The test pipeline of a config without what loads the truth.

    Args:
        config: Its ``test_dataloader.dataset.pipeline`` is used, or else its ``test_pipeline``.
        augment: Take the config's ``tta_pipeline`` in its place, or, without one, show the network
            the image as it is and flipped each way.

    Raises:
        ValueError: If there is no such pipeline, it does not begin with ``LoadCheckedImage`` or
            mmcv's ``LoadImageFromFile``, does not end with a transform that packs, or has no
            ``TestTimeAug`` for views.
    """

    def __init__(self, config: Config, augment: bool = False) -> None:
        use_default_scope(config)
        own_views = config.get('tta_pipeline') if augment else None
        settings = copy.deepcopy(own_views or _test_pipeline(config))  # TestTimeAug builds in it
        steps = [step if callable(step) else TRANSFORMS.build(step) for step in settings]
        if not steps or not isinstance(steps[0], LoadImageFromFile):
            raise ValueError(
                "the config's test pipeline must begin with LoadImageFromFile or LoadCheckedImage "
                f'to predict images, but it is {[type(step).__name__ for step in steps]}'
            )
        self.load, *rest = steps
        self._rest = [step for step in rest if not isinstance(step, _TRUTH)]
        if augment and not own_views:
            self._rest = _with_flips(self._rest)
        views = [one for step in self._rest for one in getattr(step, 'subroutines', [])]
        if augment and not views:
            raise ValueError(
                "the config's tta_pipeline must have TestTimeAug, which makes the views, but it is "
                f'{[type(step).__name__ for step in steps]}'
            )
        for view in views:
            view.transforms = [one for one in view.transforms if not isinstance(one, _TRUTH)]
            for step in view.transforms:
                if hasattr(step, 'meta_keys'):  # or nobody would know what to turn back
                    step.meta_keys = tuple(dict.fromkeys((*step.meta_keys, *_FLIPS)))

    def __call__(
        self, path: str | Path | None = None, pixels: np.ndarray | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Prepares one image, of a file or in memory.

        Args:
            path: The file; or a name for the pixels.
            pixels: (H, W) grey or (H, W, 3) RGB, uint8. Not changed.

        Returns:
            The image as it was loaded, (H, W, 3) uint8 RGB, and what the pipeline packed.
        """
        results: dict[str, Any] = dict(img_path=str(path), seg_fields=[])
        if pixels is None:
            results = self.load(results)
        else:
            image = self._as_loaded(pixels)
            results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        shown = _as_shown(results['img'])
        for step in self._rest:
            results = step(results)
        return shown, results

    def _as_loaded(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels in the form in which the pipeline's loader gives those of a file."""
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        grey = self.load.color_type == 'grayscale'
        image = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)
        return image.astype(np.float32) if self.load.to_float32 else image


def _test_pipeline(config: Config) -> list[Any]:
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    pipeline = dataset.get('pipeline') or config.get('test_pipeline')
    if not pipeline:
        raise ValueError(
            'the config must have test_dataloader.dataset.pipeline or test_pipeline, which says '
            f'how images are loaded and resized; it has {", ".join(sorted(config))}'
        )
    return list(pipeline)


def _with_flips(steps: list[Any]) -> list[Any]:
    """Views of the image as it is, and flipped each way; mmseg turns their answers back."""
    if not steps or not hasattr(steps[-1], 'meta_keys'):
        raise ValueError(
            'the test pipeline must end with PackInputs or PackSegInputs to be shown flipped '
            f'images, but it ends with {type(steps[-1]).__name__ if steps else "nothing"}; give '
            'the config a tta_pipeline'
        )
    *before, pack = steps
    flips = [
        RandomFlip(prob=0.0),
        RandomFlip(prob=1.0, direction='horizontal'),
        RandomFlip(prob=1.0, direction='vertical'),
    ]
    return [*before, TestTimeAug([flips, [pack]])]


def _as_shown(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
