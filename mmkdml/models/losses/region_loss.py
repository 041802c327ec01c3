"""What the losses share that compare the regions of classes."""

from __future__ import annotations

from mmkdml.functional.regions import check_num_classes
from mmkdml.models.losses.transfer_loss import TransferLoss


class RegionLoss(TransferLoss):
    """Base of losses that take the truth of each pixel; the sides' channels may differ.

    Args:
        num_classes: Background included, 2 for a binary task.
        ignore_index: The label of pixels that do not count.

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
