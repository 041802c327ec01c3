"""A config's test pipeline for images without annotations."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile, RandomFlip, TestTimeAug
from mmengine.config import Config

from mmkdml.apis.prediction.volume import VolumeFormat
from mmkdml.apis.tta import ANNOTATIONS, FLIP_KEYS, number_before_flips
from mmkdml.datasets.channels import as_picture
from mmkdml.datasets.transforms import reversed_if_rgb
from mmkdml.datasets.volumes.transforms import LoadVolumeSlice, NormalizeVolume
from mmkdml.inspection.config import use_default_scope
from mmkdml.registry import TRANSFORMS


class ImagePipeline:
    """The test pipeline of a config without the transforms that load annotations.

    Args:
        config: Config with ``test_dataloader.dataset.pipeline`` or ``test_pipeline``.
        augment: Use the config's ``tta_pipeline`` instead. Without one, the views are the image,
            its horizontal and its vertical flip.

    Attributes:
        channels: Channels of the images if ``LoadMultiChannelImage`` loads them, else None.
        form: How volumes are sliced if the network was trained on volumes (``LoadVolumeSlice``),
            else None.

    Raises:
        ValueError: If the config has no such pipeline, or it does not begin with
            ``LoadCheckedImage``, ``LoadMultiChannelImage`` or mmcv's ``LoadImageFromFile``; with
            ``augment``, if it does not end with a packing transform or has no ``TestTimeAug``.
    """

    def __init__(self, config: Config, augment: bool = False) -> None:
        use_default_scope(config)
        tta_pipeline = config.get('tta_pipeline') if augment else None
        # A copy, because TestTimeAug builds its transforms in place.
        settings = copy.deepcopy(tta_pipeline or test_steps(config))
        steps = [step if callable(step) else TRANSFORMS.build(step) for step in settings]
        if not steps or not isinstance(steps[0], LoadImageFromFile):
            raise ValueError(
                'Invalid test pipeline: expected LoadImageFromFile or LoadCheckedImage first, got '
                f'{[type(step).__name__ for step in steps]}'
            )
        self.load, *rest = steps
        self.channels: int | None = getattr(self.load, 'channels', None)
        self.form = _volume_format(self.load, rest)
        self._rest = [step for step in rest if not isinstance(step, ANNOTATIONS)]
        if augment and not tta_pipeline:
            self._rest = _with_flips(self._rest)
        views = [one for step in self._rest for one in getattr(step, 'subroutines', [])]
        if augment and not views:
            raise ValueError(
                'Invalid tta_pipeline: expected TestTimeAug, which creates the views, got '
                f'{[type(step).__name__ for step in steps]}'
            )
        for view in views:
            view.transforms = [one for one in view.transforms if not isinstance(one, ANNOTATIONS)]
            for step in view.transforms:
                if hasattr(step, 'meta_keys'):  # needed to flip the predictions back
                    step.meta_keys = tuple(dict.fromkeys((*step.meta_keys, *FLIP_KEYS)))

    def __call__(
        self,
        path: str | Path | None = None,
        pixels: np.ndarray | None = None,
        intensity: Any = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Prepare one image from a file or from memory.

        Args:
            path: The file, or a name for the pixels.
            pixels: (H, W) gray or (H, W, 3) RGB, uint8, or (H, W, C) as of ``read_channels``; not
                modified.
            intensity: Statistics of the volume, see
                :class:`~mmkdml.apis.prediction.volume.Volume`.

        Returns:
            The loaded image as a picture, (H, W, 3) uint8 RGB, and the packed output of the
            pipeline.
        """
        results: dict[str, Any] = dict(img_path=str(path), seg_fields=[])
        if pixels is None:
            results = self.load(results)
        else:
            image = self._as_loaded(pixels)
            results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
        if intensity is not None:
            results['case_intensity'] = intensity
        image = results['img']
        if self.form is not None:
            (number,), start = self.form.channels, self.form.context * self.form.channels[0]
            picture = as_picture(image[..., start : start + number])
        elif self.channels is not None:
            picture = as_picture(reversed_if_rgb(image))
        else:
            picture = _as_rgb(image)
        for step in self._rest:
            results = step(results)
        return picture, results

    def _as_loaded(self, pixels: np.ndarray) -> np.ndarray:
        """Convert pixels to the format in which the pipeline's loader returns those of a file."""
        if self.form is not None:
            return np.atleast_3d(pixels).astype(np.float32)
        if self.channels is not None:
            return reversed_if_rgb(np.atleast_3d(pixels))
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, axis=2)
        gray = self.load.color_type == 'grayscale'
        image = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY if gray else cv2.COLOR_RGB2BGR)
        return image.astype(np.float32) if self.load.to_float32 else image


class FoldPipelines:
    """Pipelines of the runs of all folds, which differ in the normalization of their volumes.

    Args:
        pipelines: Pipelines that load images alike.
    """

    def __init__(self, pipelines: Sequence[ImagePipeline]) -> None:
        self._pipelines = pipelines
        self.channels, self.form = pipelines[0].channels, pipelines[0].form

    def __call__(
        self,
        path: str | Path | None = None,
        pixels: np.ndarray | None = None,
        intensity: Any = None,
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Prepare an image; the output of the first pipeline has those of all under ``folds``."""
        picture, first = self._pipelines[0](path, pixels, intensity)
        others = [one(path, pixels, intensity)[1] for one in self._pipelines[1:]]
        return picture, {**first, 'folds': [first, *others]}


def _volume_format(load: Any, steps: list[Any]) -> VolumeFormat | None:
    """Return how a network that was trained on volumes receives their slices."""
    if not isinstance(load, LoadVolumeSlice):
        return None
    channels = next((step.channels for step in steps if isinstance(step, NormalizeVolume)), None)
    if not channels:
        raise ValueError(
            'Invalid test pipeline: expected NormalizeVolume with channels after LoadVolumeSlice, '
            f'got {steps}. Use the folder of a run, whose config has them'
        )
    return VolumeFormat(
        (len(channels),),
        raw=True,
        stored=True,
        axis=load.axis,
        orientation=load.orientation,
        context=load.context,
    )


def test_steps(config: Config) -> list[Any]:
    """Return the settings of the test pipeline; raise ValueError if there are none."""
    dataset = (config.get('test_dataloader') or {}).get('dataset') or {}
    pipeline = dataset.get('pipeline') or config.get('test_pipeline')
    if not pipeline:
        raise ValueError(
            'Invalid config: expected test_dataloader.dataset.pipeline or test_pipeline, got '
            f'{", ".join(sorted(config))}'
        )
    return list(pipeline)


def _with_flips(steps: list[Any]) -> list[Any]:
    """Add unflipped, horizontally and vertically flipped views."""
    if not steps or not hasattr(steps[-1], 'meta_keys'):
        raise ValueError(
            'Invalid test pipeline for flipped views: expected PackInputs, PackSegInputs or '
            f'PackDetInputs last, got {type(steps[-1]).__name__ if steps else "nothing"}. Define a '
            'tta_pipeline'
        )
    *others, pack = steps
    first = number_before_flips([type(step) for step in others])
    flips = [
        RandomFlip(prob=0.0),
        RandomFlip(prob=1.0, direction='horizontal'),
        RandomFlip(prob=1.0, direction='vertical'),
    ]
    after = [[step] for step in others[first:]]
    return [*others[:first], TestTimeAug([flips, *after, [pack]])]


def _as_rgb(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.uint8)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 else cv2.COLOR_BGR2RGB)
