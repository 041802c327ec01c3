"""The paper's supervised segmentation loss as a loss of mmseg's decode heads."""

from __future__ import annotations

from collections.abc import Callable

from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from mmkdml.functional import focal_and_dice
from mmkdml.registry import MODELS


@MODELS.register_module()
class FocalDiceLoss(nn.Module):
    """Focal plus squared Dice (paper, eq. 8), for ``loss_decode`` of any mmseg head.

    In several processes both terms are of the batches of all of them together, as if one process
    had them: the mean of each process's Dice is another loss.

    Args:
        focusing: The focal term's exponent tau; the paper does not print it.
        focal_weight: Weight of the focal term; 1 as printed.
        dice_weight: Weight of the Dice term; 1 as printed.
        loss_weight: Weight of the sum.
        loss_name: Its key in the log; must begin with ``loss`` to be optimised.

    Raises:
        ValueError: If ``loss_name`` does not begin with ``loss``.
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
                'loss_name must begin with "loss", or mmengine will not optimise it; got '
                f'{loss_name!r}'
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
        """Logits (N, K, H, W), labels (N, H, W), pixel weights (N, H, W) -> scalar."""
        focal, dice = self.terms(
            seg_logit, seg_label, self.focusing, ignore_index, weight, total=_over_processes
        )
        return self.loss_weight * (self.focal_weight * focal + self.dice_weight * dice)


def _over_processes(sums: Tensor) -> Tensor:
    """Adds up the sums of all processes.

    The gradient is as many times the own share's as there are processes, for
    DistributedDataParallel averages gradients over the processes.
    """
    processes = get_world_size()
    if processes == 1:
        return sums
    total = sums.detach().clone()
    all_reduce(total)
    return total + processes * (sums - sums.detach())
