"""Checks of images passed as arrays."""

from __future__ import annotations

import numpy as np

from mmkdml.datasets.channels import DTYPES
from mmkdml.datasets.image_files import check_size


def check_array(pixels: np.ndarray, channels: int | None, max_pixels: int) -> None:
    """Check an image in memory.

    Args:
        pixels: The image.
        channels: Channels that ``LoadMultiChannelImage`` loads. None: gray or RGB.
        max_pixels: Largest number of pixels.

    Raises:
        ValueError: If the array has another shape or type, or is empty or too large.
    """
    if channels is not None:
        found = pixels.shape[2] if pixels.ndim == 3 else 1
        if pixels.ndim not in (2, 3) or found != channels or pixels.dtype not in DTYPES:
            raise ValueError(
                f'Invalid array: expected (H, W, {channels}) of {", ".join(DTYPES)}, got '
                f'{pixels.shape} {pixels.dtype}. Pass several images as a list'
            )
    elif (
        pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,))
    ):
        raise ValueError(
            'Invalid array: expected (H, W) gray or (H, W, 3) RGB, uint8, got '
            f'{pixels.shape} {pixels.dtype}. Pass several images as a list'
        )
    if not pixels.size:
        raise ValueError(f'Invalid array: expected at least one pixel, got shape {pixels.shape}')
    check_size(pixels.shape[0] * pixels.shape[1], max_pixels, f'array {pixels.shape}')
