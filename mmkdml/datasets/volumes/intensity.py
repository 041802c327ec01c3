"""Normalization of intensities by the name of the channel, as in nnU-Net (Isensee et al. 2021)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmkdml.datasets.splits.manifest import read_manifest
from mmkdml.datasets.volumes.store import Case

CT, ZSCORE, NONE, RESCALE, RGB = SCHEMES = 'ct', 'zscore', 'none', 'rescale_to_0_1', 'rgb_to_0_1'
#: Settings of the CT scheme, from the foreground of the training split.
CT_SETTINGS = ('mean', 'std', 'low', 'high')
#: Key of the manifest.
INTENSITY = 'intensity'
_SMALLEST_STD = 1e-8
# Number of quantiles of the foreground of a case, and of the voxels they are computed from.
_QUANTILES, _VOXELS = 1001, 1_000_000


def scheme_of(name: str) -> str:
    """Return the normalization of a channel by its name (case-insensitive); default: z-score.

    >>> [scheme_of(name) for name in ('CT', 'T1', 'noNorm', 'rgb_to_0_1')]
    ['ct', 'zscore', 'none', 'rgb_to_0_1']
    """
    name = name.casefold()
    return NONE if name == 'nonorm' else name if name in SCHEMES[:2] + SCHEMES[3:] else ZSCORE


def normalized(
    channel: np.ndarray, settings: Mapping[str, Any], statistics: Sequence[float] | None
) -> np.ndarray:
    """Normalize a channel of a slice or volume.

    Args:
        channel: Intensities of any shape.
        settings: ``scheme``, one of :data:`SCHEMES`, and for CT the keys of :data:`CT_SETTINGS`.
        statistics: Mean, standard deviation, minimum and maximum of the channel in the whole case;
            the last two may be missing unless the scheme is ``'rescale_to_0_1'``. Not needed for
            CT, ``'none'`` and ``'rgb_to_0_1'``.

    Returns:
        float32.

    Raises:
        ValueError: If ``statistics`` are needed and missing, or an RGB channel is not in [0, 255].
    """
    values = channel.astype(np.float32)
    scheme = settings['scheme']
    if scheme == CT:
        np.clip(values, settings['low'], settings['high'], out=values)
        return _standardized(values, settings['mean'], settings['std'])
    if scheme == NONE:
        return values
    if scheme == RGB:
        if values.size and not (values.min() >= 0 and values.max() <= 255):
            raise ValueError(
                f'channel {settings["name"]}: expected intensities in [0, 255], got '
                f'[{values.min():g}, {values.max():g}]. Rename it in dataset.json'
            )
        return values / np.float32(255)
    needed = 4 if scheme == RESCALE else 2
    if statistics is None or len(statistics) < needed:
        raise ValueError(
            f'Invalid case_intensity of channel {settings["name"]}: expected mean, standard '
            f'deviation, minimum and maximum of the case, got {statistics!r}'
        )
    if scheme == RESCALE:
        low, high = statistics[2:4]
        return (values - np.float32(low)) / np.float32(max(high - low, _SMALLEST_STD))
    return _standardized(values, *statistics[:2])


def _standardized(values: np.ndarray, mean: float, std: float) -> np.ndarray:
    values -= np.float32(mean)
    values /= np.float32(max(std, _SMALLEST_STD))
    return values


def foreground_statistics(values: np.ndarray) -> dict[str, Any]:
    """Summarize the intensities in the foreground of a case.

    Args:
        values: Intensities in one dimension; may be empty.

    Returns:
        ``mean``, ``std``, and ``quantiles`` at equal distances from the minimum to the maximum;
        empty without foreground.
    """
    if not values.size:
        return {}
    values = values.astype(np.float64)
    quantiles = np.quantile(values, np.linspace(0, 1, _QUANTILES))
    return dict(
        mean=float(values.mean()),
        std=float(values.std()),
        quantiles=[float(f'{one:.7g}') for one in quantiles],
    )


def sampling_step(voxels: int) -> int:
    """Return n such that every n-th foreground voxel suffices for the quantiles."""
    return max(1, -(-voxels // _VOXELS))


def training_intensity(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Return the settings of :class:`NormalizeVolume` for the training cases of a split.

    For CT, nnU-Net draws the same number of voxels from the foreground of each case, with
    replacement. Means, variances and quantiles of the cases give what such a sample estimates.

    Args:
        cases: All cases of the training split.

    Returns:
        A dict per channel: ``name``, ``scheme``, and for CT mean, standard deviation and the 0.5th
        and 99.5th percentile of the foreground, in which all cases count equally.

    Raises:
        ValueError: If a CT channel has no foreground in any case.
    """
    channels = []
    for index, name in enumerate(cases[0].channels):
        settings: dict[str, Any] = dict(name=name, scheme=scheme_of(name))
        if settings['scheme'] == CT:
            found = [one for case in cases if (one := case.foreground[index])]
            if not found:
                raise ValueError(
                    f'Invalid labels: expected foreground for the intensities of channel {name}, '
                    f'got none in {len(cases)} training cases'
                )
            means = np.array([one['mean'] for one in found])
            std = np.sqrt(np.mean([one['std'] ** 2 for one in found]) + means.var())
            low, high = np.percentile([one['quantiles'] for one in found], (0.5, 99.5))
            numbers = (means.mean(), std, low, high)
            settings |= {key: float(n) for key, n in zip(CT_SETTINGS, numbers, strict=True)}
        channels.append(settings)
    return channels


def manifest_intensity(ann_file: str | Path) -> list[dict[str, Any]] | None:
    """Return the settings of :class:`NormalizeVolume` that belong to a split file.

    Args:
        ann_file: Split file; in a fold, its folder is ``fold_<k>``.

    Returns:
        See :func:`training_intensity`; None if the manifest has none.
    """
    folder = Path(ann_file).parent
    found = read_manifest(folder).get(INTENSITY)
    if not found or isinstance(found[0], Mapping):
        return found or None
    number = folder.name.removeprefix('fold_')
    return found[int(number)] if number.isdecimal() and int(number) < len(found) else None
