"""Boxes: data of an image, overlaps, and fusion of the boxes of several detectors.

Boxes are (x1, y1, x2, y2): left, top, right and bottom edge.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Objects(NamedTuple):
    """True boxes of an image.

    Attributes:
        boxes: (M, 4), x1, y1, x2, y2 as fractions of the width and height of the batch's (padded)
            images, in [0, 1].
        labels: Class of each box, (M,), dtype long.
    """

    boxes: Tensor
    labels: Tensor
