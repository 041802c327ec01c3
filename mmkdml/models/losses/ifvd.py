"""Intra-class feature variation distillation (IFVD)."""

from __future__ import annotations

from torch import Tensor, nn

from mmkdml.functional.regions import check_num_classes, intra_class_variation
from mmkdml.registry import MODELS


@MODELS.register_module()
class IntraClassVariationLoss(nn.Module):
    """How alike pixels are to their class; see :func:`mmkdml.functional.intra_class_variation`.

    Weights: 20 in CIRKD, on the map before the classifier; 200 in the code of IFVD, 50 in its
    paper.

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

    def forward(self, learner: Tensor, source: Tensor, truth: Tensor) -> Tensor:
        """Maps (N, C, H, W) and (N, C', H, W), classes (N, H', W') -> scalar."""
        return intra_class_variation(learner, source, truth, self.num_classes, self.ignore_index)

    def extra_repr(self) -> str:
        """The options, as they are printed with the module."""
        return f'num_classes={self.num_classes}, ignore_index={self.ignore_index}'
