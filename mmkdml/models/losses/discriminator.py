"""Discriminator for maps of logits, after SAGAN (Zhang et al., ICML 2019)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from mmkdml.functional.checks import check_at_least

SMALLEST_MAP = 64


class SelfAttention(nn.Module):
    """Residual self-attention over all positions of a map; the identity at initialization.

    Args:
        channels: C, at least 8.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.share = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape (N, C, H, W)."""
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = (query.mT @ key).softmax(dim=2)
        return self.share * (value @ attention.mT).view_as(x) + x


class SelfAttentionDiscriminator(nn.Module):
    """Discriminator that scores maps of logits, high if they resemble the source's.

    Batch norm of the logits, four spectrally normalized 4x4 convolutions of stride 2 with
    self-attention after the last two, and a 4x4 convolution to one score
    (irfanICMLL/structure_knowledge_distillation:networks/sagan_models.py). Designed for 65x65
    logits, which yield one score; larger maps yield a map of scores.

    Args:
        in_channels: The number of logits K; a binary task keeps its single logit.
        width: Channels of the first convolution, at least 2; doubled by each of the next three.

    Raises:
        ValueError: If the width is below 2.
    """

    def __init__(self, in_channels: int, width: int = 64) -> None:
        super().__init__()
        check_at_least('width', width, 2)
        layers: list[nn.Module] = [nn.BatchNorm2d(in_channels)]
        channels = in_channels
        for depth in range(4):
            convolution = nn.Conv2d(channels, width * 2**depth, 4, stride=2, padding=1)
            layers += [spectral_norm(convolution), nn.LeakyReLU(0.1)]
            channels = width * 2**depth
            if depth >= 2:
                layers.append(SelfAttention(channels))
        self.layers = nn.Sequential(*layers, nn.Conv2d(channels, 1, 4))

    def forward(self, logits: Tensor) -> Tensor:
        """Compute scores (N, 1, H', W') of logits (N, K, H, W), with H' = H // 16 - 3.

        Raises:
            ValueError: If the map is smaller than 64x64.
        """
        if logits.ndim != 4 or min(logits.shape[2:]) < SMALLEST_MAP:
            raise ValueError(
                'Invalid input of the discriminator: expected logits (N, K, H, W) of at least '
                f'{SMALLEST_MAP}x{SMALLEST_MAP}, got {tuple(logits.shape)}. Use larger images'
            )
        return self.layers(logits)
