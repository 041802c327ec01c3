"""Conversion of a normalized batch to another normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkdml.functional.vectors import full_precision

Samples = Sequence[BaseDataElement] | None

PAD_VALUES = ('pad_val', 'pad_value')
_UNPADDED = 'unpadded_size'


class Renormalization(nn.Module):
    """Replace the shared normalization of a batch by that of a member.

    Both are affine per channel, so the replacement is one multiplication and one addition, after
    reversing the channels if only one of them converts BGR to RGB, which the frameworks do only
    for 3 channels. Padding is set to the padding value of the member's preprocessor.

    Args:
        shared: Data preprocessor that made the batch.
        own: Data preprocessor of the member.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, shared: nn.Module, own: nn.Module) -> None:
        super().__init__()
        (shared_mean, shared_std), (mean, std) = mean_and_std(shared), mean_and_std(own)
        self.reverses_channels = _converts_channels(shared) != _converts_channels(own)
        if self.reverses_channels and len(shared_mean) == 3:
            shared_mean, shared_std = shared_mean.flip(0), shared_std.flip(0)
        scale, shift = shared_std / std, (shared_mean - mean) / std
        self.pad_value = _pad_value(own)
        padded = _pad_value(shared) * scale + shift
        self.refills_padding = bool((padded - self.pad_value).abs().max() > 1e-6)
        # Not in checkpoints, like the buffers of the frameworks' preprocessors.
        self.register_buffer('scale', scale.float(), persistent=False)
        self.register_buffer('shift', shift.float(), persistent=False)

    def forward(
        self, inputs: Tensor, samples: Samples = None, augments: Sequence[Any] = ()
    ) -> Tensor:
        """Normalize a preprocessed batch like the member's preprocessor.

        Args:
            inputs: Images (N, C, H, W) of the shared preprocessor.
            samples: Samples in which :func:`record_sizes` recorded the sizes without padding.
                Default: no padding.
            augments: Batch augmentations that may have mixed the images.

        Returns:
            Images of the same shape and dtype.

        Raises:
            ValueError: If padding was mixed with pixels.
        """
        images = full_precision(inputs)
        if self.reverses_channels and images.shape[1] == 3:
            images = images.flip(1)
        images = images * self.scale.to(images.dtype) + self.shift.to(images.dtype)
        if self.refills_padding:
            self._refill(images, samples, augments)
        return images.to(inputs.dtype)

    def _refill(self, images: Tensor, samples: Samples, augments: Sequence[Any]) -> None:
        """Set the padding, which is at the bottom and on the right, to the member's value."""
        padded = tuple(images.shape[2:])
        listed = samples or [None] * len(images)
        sizes = [padded if one is None else one.get(_UNPADDED, padded) for one in listed]
        if all(size == padded for size in sizes):
            return
        mixes = [type(augment).__name__ for augment in augments]
        if mixes and (len(set(sizes)) > 1 or 'ResizeMix' in mixes):
            raise ValueError(
                f'Invalid batch for {", ".join(mixes)}: expected images without padding, because '
                f'members pad with different values, got {", ".join(map(str, sorted(set(sizes))))} '
                f'padded to {padded}. Resize the images to one size in the pipeline'
            )
        for image, (height, width) in zip(images, sizes, strict=True):
            image[:, height:] = self.pad_value
            image[:, :, width:] = self.pad_value


def record_sizes(_: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
    """Forward hook of a preprocessor that records the sizes before padding in the samples."""
    samples = output.get('data_samples') if isinstance(output, dict) else None
    for image, sample in zip(arguments[0]['inputs'], samples or (), strict=False):
        sample.set_metainfo({_UNPADDED: tuple(image.shape[-2:])})


def mean_and_std(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Return mean and std, (C, 1, 1) each, float64; C is 1 if they are equal for all channels."""
    mean = getattr(preprocessor, 'mean', torch.zeros(1, 1, 1))
    std = getattr(preprocessor, 'std', torch.ones(1, 1, 1))
    return mean.detach().cpu().double(), std.detach().cpu().double()


def _converts_channels(preprocessor: nn.Module) -> bool:
    keys = ('to_rgb', '_channel_conversion')
    return any(bool(getattr(preprocessor, key, False)) for key in keys)


def _pad_value(preprocessor: nn.Module) -> float:
    found = [getattr(preprocessor, key) for key in PAD_VALUES if hasattr(preprocessor, key)]
    return float(found[0]) if found else 0.0


def normalization(preprocessor: nn.Module, channels: int | None = None) -> dict[str, Any]:
    """Return the settings of a data preprocessor that change pixel values."""
    mean, std = mean_and_std(preprocessor)
    channels = channels or len(mean)
    return dict(
        mean=mean.expand(channels, 1, 1).flatten().tolist(),
        std=std.expand(channels, 1, 1).flatten().tolist(),
        reverses_channels=_converts_channels(preprocessor),
        pad_value=_pad_value(preprocessor),
    )
