"""Data preprocessor of mmseg for images with any number of channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmseg.models.data_preprocessor import SegDataPreProcessor

from mmkdml.registry import MODELS


@MODELS.register_module()
class MultiChannelSegDataPreProcessor(SegDataPreProcessor):
    """mmseg's ``SegDataPreProcessor`` that normalizes any number of channels.

    The original allows a mean of one or three channels. mmpretrain's ``ClsDataPreprocessor`` has no
    such limit.

    Args:
        mean: Mean of each channel in the unit of the images. Default: no normalization.
        std: Standard deviation of each channel, > 0.
        **kwargs: See :class:`mmseg.models.SegDataPreProcessor`.

    Raises:
        ValueError: If the lengths differ, or a standard deviation is not positive.
    """

    def __init__(
        self, mean: Sequence[float] | None = None, std: Sequence[float] | None = None, **kwargs: Any
    ) -> None:
        if len(mean or ()) != len(std or ()) or not all(value > 0 for value in std or ()):
            raise ValueError(
                'Invalid mean and std: expected one value of each per channel, and std above 0, '
                f'got mean={mean} and std={std}'
            )
        if not mean:
            super().__init__(**kwargs)
            return
        super().__init__(mean=[0.0], std=[1.0], **kwargs)
        self.mean, self.std = (
            torch.tensor(values, dtype=torch.float32).view(-1, 1, 1) for values in (mean, std)
        )
