"""Difference between the predictions of an export and of the framework."""

from __future__ import annotations

from dataclasses import dataclass

TOLERANCE = 1e-4


@dataclass(frozen=True)
class Agreement:
    """Difference between the predictions of an export and of the framework.

    Attributes:
        images: Number of compared images.
        max_difference: Largest absolute difference of a score.
        other_labels: Share of different labels, in [0, 1].
    """

    images: int
    max_difference: float
    other_labels: float

    def __str__(self) -> str:
        return f'Largest difference from PyTorch on {self.images} images: {self.max_difference:.2g}'


@dataclass(frozen=True)
class BoxAgreement(Agreement):
    """Difference between the boxes of an export and of mmdet.

    A box is matched with the most similar one of its class. ``max_difference`` is that of matched
    boxes; ``other_labels`` is the share of boxes that have no match.

    Attributes:
        boxes: Number of compared boxes of both.
        max_box_difference: Largest absolute difference of an edge of matched boxes, in pixels.
    """

    boxes: int
    max_box_difference: float

    def __str__(self) -> str:
        return (
            f'{super().__str__()} (scores), {self.max_box_difference:.2g} pixels (boxes); '
            f'{self.other_labels:.2%} of {self.boxes} boxes have no match'
        )
