"""Masks of a case whose slices arrive in any order."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass
class OpenCase:
    """Slices of a case, compressed: masks of volumes need about a hundredth of their size.

    Attributes:
        name: Case.
        group: Group of the case.
        slices: Number of slices of the volume; None for an image.
        spacing: Distances between elements of the slice axis (of volumes), rows and columns in mm;
            None if unknown.
        shape: Height and width.
        members: Names of the members.
    """

    name: str
    group: str
    slices: int | None
    spacing: tuple[float, ...] | None
    shape: tuple[int, int]
    members: tuple[str, ...]
    _masks: dict[int, dict[str, bytes]] = field(default_factory=dict)

    @property
    def missing(self) -> list[int]:
        """Slices that have not arrived, ascending."""
        return sorted(set(range(self.slices or 1)) - set(self._masks))

    def add(self, index: int, truth: np.ndarray, predictions: Mapping[str, np.ndarray]) -> None:
        """Add a slice: classes of type uint8 and shape (H, W). A repeated one is ignored."""
        masks = {'': truth, **predictions}
        self._masks.setdefault(
            index, {name: zlib.compress(mask.tobytes(), 1) for name, mask in masks.items()}
        )

    def merge(self, other: OpenCase) -> OpenCase:
        """Return the case with the slices of another process.

        Raises:
            ValueError: If group, number of slices, spacing, size or members differ.
        """
        for key in ('group', 'slices', 'spacing', 'shape', 'members'):
            own, found = getattr(self, key), getattr(other, key)
            if own != found:
                raise ValueError(
                    f'Invalid slices of case {self.name}: expected the same {key} in all of them, '
                    f'got {own} and {found}'
                )
        self._masks = {**other._masks, **self._masks}
        return self

    def truth(self) -> np.ndarray:
        """Return the true classes, (D, H, W), or (H, W) for an image."""
        return self._stacked('')

    def prediction(self, member: str) -> np.ndarray:
        """Return the predicted classes of a member, of the shape of the truth."""
        return self._stacked(member)

    def _stacked(self, name: str) -> np.ndarray:
        volume = np.empty((self.slices or 1, *self.shape), np.uint8)
        for index, own in enumerate(volume):
            flat = np.frombuffer(zlib.decompress(self._masks[index][name]), np.uint8)
            own[:] = flat.reshape(self.shape)
        return volume if self.slices is not None else volume[0]
