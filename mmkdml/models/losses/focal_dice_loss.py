"""The paper's supervised segmentation loss for mmseg's decode heads."""

from __future__ import annotations

from collections.abc import Callable

from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from mmkdml.functional import focal_and_dice
from mmkdml.registry import MODELS


@MODELS.register_module()
class FocalDiceLoss(nn.Module):
    """Focal plus squared Dice loss (paper, eq. 8) for ``loss_decode`` of any mmseg head.

    In distributed training both terms are computed over the batches of all processes, as a single
    process would; the mean of each process's Dice would be a different loss.

    Args:
        focusing: The focal term's exponent tau; its value is not in the paper.
        focal_weight: Weight of the focal term; 1 in the paper.
        dice_weight: Weight of the Dice term; 1 in the paper.
        loss_weight: Weight of the sum.
        loss_name: Key in the log; must start with ``loss`` to be optimized.

    Raises:
        ValueError: If ``loss_name`` does not start with ``loss``.
    """

    def __init__(
        self,
        focusing: float = 2.0,
        focal_weight: float = 1.0,
        dice_weight: float = 1.0,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_focal_dice',
    ) -> None:
        super().__init__()
        if not loss_name.startswith('loss'):
            raise ValueError(
                'Invalid loss_name: expected a name that starts with "loss", got '
                f'{loss_name!r}. mmengine does not optimize other keys'
            )
        self.focusing = focusing
        self.focal_weight = focal_weight
        self.dice_weight = dice_weight
        self.loss_weight = loss_weight
        self.loss_name = loss_name
        self.terms: Callable[..., tuple[Tensor, Tensor]] = focal_and_dice

    def forward(
        self,
        seg_logit: Tensor,
        seg_label: Tensor,
        weight: Tensor | None = None,
        ignore_index: int = 255,
    ) -> Tensor:
        """Compute the loss from logits (N, K, H, W), labels and pixel weights (N, H, W)."""
        focal, dice = self.terms(
            seg_logit, seg_label, self.focusing, ignore_index, weight, total=_over_processes
        )
        return self.loss_weight * (self.focal_weight * focal + self.dice_weight * dice)


def _over_processes(sums: Tensor) -> Tensor:
    """Sum over all processes.

    The gradient of this process's share is multiplied by the number of processes, because
    DistributedDataParallel averages gradients over them.
    """
    processes = get_world_size()
    if processes == 1:
        return sums
    total = sums.detach().clone()
    all_reduce(total)
    return total + processes * (sums - sums.detach())
