"""Base class of losses on class regions."""

from __future__ import annotations

from mmkdml.functional.regions import check_num_classes
from mmkdml.models.losses.transfer_loss import TransferLoss


class RegionLoss(TransferLoss):
    """Base of losses that use the label of each pixel; channels of the two sides may differ.

    Args:
        num_classes: Number of classes with background, 2 for a binary task.
        ignore_index: Label of ignored pixels.

    Raises:
        ValueError: If there are fewer than 2 classes.
    """

    requires_same_shape = False
    needs_truth = True

    def __init__(self, num_classes: int = 2, ignore_index: int = 255) -> None:
        super().__init__()
        check_num_classes(num_classes)
        self.num_classes = num_classes
        self.ignore_index = ignore_index
