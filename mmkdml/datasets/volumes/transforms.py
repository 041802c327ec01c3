"""Transforms that load slices of stored volumes and normalize their intensities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform, LoadAnnotations, LoadImageFromFile

from mmkdml.datasets.volumes.intensity import CT, CT_SETTINGS, SCHEMES, normalized
from mmkdml.datasets.volumes.store import check_axis, read_slice
from mmkdml.functional.checks import check_choice
from mmkdml.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadVolumeSlice(LoadImageFromFile):
    """Load a slice of a stored volume, with its neighbors as further channels (2.5-D).

    Required key: ``img_path``, such as ``CASE.npy#12``.
    Added keys: ``img`` (H, W, (2 * context + 1) * C) float32 in the unit of the source: the slices
    from the first to the last neighbor, each with all channels; ``img_shape``, ``ori_shape``.

    Args:
        context: Number of neighbors on each side, at least 0. At the ends of the volume, its first
            or last slice is repeated.
        axis: Axis of the source file along which it was cut. It is only recorded for prediction;
            when a training starts, it is filled in from the split's manifest.
        orientation: Directions of the axes of the source files, such as ``'RAS'``; recorded
            likewise, for a warning about other ones in prediction.

    Raises:
        ValueError: If an argument is invalid, or the file is unreadable.
    """

    def __init__(
        self, context: int = 0, axis: int | None = None, orientation: str | None = None
    ) -> None:
        super().__init__(to_float32=True, color_type='unchanged')
        if type(context) is not int or context < 0:
            raise ValueError(f'Invalid context: expected an int of at least 0, got {context!r}')
        check_axis(axis)
        self.context, self.axis, self.orientation = context, axis, orientation

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the slice."""
        results['img'] = read_slice(results['img_path'], self.context).astype(np.float32)
        results['img_shape'] = results['ori_shape'] = results['img'].shape[:2]
        return results

    def __repr__(self) -> str:
        settings = ('context', 'axis', 'orientation')
        shown = ', '.join(f'{key}={getattr(self, key)!r}' for key in settings)
        return f'{type(self).__name__}({shown})'


@TRANSFORMS.register_module()
class LoadSliceLabel(LoadAnnotations):
    """Load the label of a slice of a stored volume.

    Required keys: ``seg_map_path``, such as ``CASE_label.npy#12``; ``seg_fields``.
    Added key: ``gt_seg_map`` (H, W) uint8, class indices and 255 for ignored pixels; also appended
    to ``seg_fields``.

    Raises:
        ValueError: If the file is unreadable.
    """

    def __init__(self) -> None:
        super().__init__(with_bbox=False, with_label=False, with_seg=True)

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Add the label."""
        results['gt_seg_map'] = read_slice(results['seg_map_path'])
        results['seg_fields'].append('gt_seg_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}()'


@TRANSFORMS.register_module()
class NormalizeVolume(BaseTransform):
    """Normalize each channel of a slice by a scheme, as nnU-Net does by the channel's name.

    ==================  ===========================================================================
    ``ct``              clip to [low, high] and standardize, all from the training split
    ``zscore``          standardize by mean and standard deviation of the channel in the whole case
    ``none``            keep the values
    ``rescale_to_0_1``  scale from minimum and maximum of the channel in the whole case
    ``rgb_to_0_1``      divide by 255
    ==================  ===========================================================================

    Required keys: ``img`` (H, W, S * C) with the C channels of one or S slices;
    ``case_intensity``, the statistics of each of the C channels in the case (see
    :func:`~mmkdml.datasets.volumes.case_intensity`), if a scheme needs them.
    Modified key: ``img``, float32.

    Args:
        channels: A dict per channel: ``name``, ``scheme``, and for CT ``mean``, ``std``, ``low``
            and ``high``. Default: those of the split's manifest, which
            :class:`~mmkdml.datasets.VolumeSliceDataset` sets, and a training records in its config.

    Raises:
        ValueError: If ``channels`` are invalid, missing, or do not fit the image.
    """

    def __init__(self, channels: Sequence[Mapping[str, Any]] | None = None) -> None:
        self.channels = channels if channels is None else [_checked(one) for one in channels]

    def transform(self, results: dict[str, Any]) -> dict[str, Any]:
        """Normalize the image."""
        if not self.channels:
            raise ValueError(
                'Invalid channels of NormalizeVolume: expected the normalization of each channel, '
                'got none. Set channels, or use VolumeSliceDataset with the split files of a '
                'converter for volumes'
            )
        image, number = np.atleast_3d(results['img']), len(self.channels)
        if image.shape[2] % number:
            raise ValueError(
                f'Invalid image {image.shape} (H, W, C) for NormalizeVolume: expected the '
                f'{number} channels {", ".join(one["name"] for one in self.channels)} of each slice'
            )
        statistics = results.get('case_intensity') or [None] * number
        if len(statistics) != number:
            raise ValueError(
                f'Invalid case_intensity: expected statistics of {number} channels, got '
                f'{len(statistics)}'
            )
        out = np.empty(image.shape, np.float32)
        for index in range(image.shape[2]):
            own = index % number
            out[..., index] = normalized(image[..., index], self.channels[own], statistics[own])
        results['img'] = out
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.channels})'


def _checked(channel: Mapping[str, Any]) -> dict[str, Any]:
    settings = dict(channel.items())
    check_choice(f'scheme of channel {settings.get("name")}', settings.get('scheme'), SCHEMES)
    missing = [key for key in CT_SETTINGS if settings['scheme'] == CT and key not in settings]
    if missing:
        raise ValueError(
            f'Invalid channel {settings.get("name")}: expected {", ".join(CT_SETTINGS)} for CT, '
            f'got none of {", ".join(missing)}'
        )
    return {'name': '', **settings}
