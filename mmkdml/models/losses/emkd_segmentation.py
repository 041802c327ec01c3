"""EMKD's supervised segmentation loss for mmseg's decode heads."""

from __future__ import annotations

from functools import partial

from mmkdml.functional.checks import check_choice
from mmkdml.functional.segmentation import FOCAL_REFERENCES, focal_and_smooth_dice
from mmkdml.models.losses.focal_dice_loss import FocalDiceLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class FocalSmoothDiceLoss(FocalDiceLoss):
    """EMKD's supervised loss, half focal and half smooth Dice, for ``loss_decode`` of mmseg heads.

    Formula and references: :func:`mmkdml.functional.segmentation.focal_and_smooth_dice`.

    Args:
        focusing: The focal term's exponent.
        focal_weight: Weight of the focal term.
        dice_weight: Weight of the Dice term.
        loss_weight: Weight of the sum.
        loss_name: Key in the log; must start with ``loss`` to be optimized.
        reference: ``'emkd'``, or ``'origin'`` for the gradient of the published focal loss.

    Raises:
        ValueError: If ``loss_name`` does not start with ``loss`` or the reference is unknown.
    """

    def __init__(
        self,
        focusing: float = 2.0,
        focal_weight: float = 0.5,
        dice_weight: float = 0.5,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_focal_smooth_dice',
        reference: str = 'emkd',
    ) -> None:
        super().__init__(focusing, focal_weight, dice_weight, loss_weight, loss_name)
        check_choice('reference', reference, FOCAL_REFERENCES)
        self.reference = reference
        self.terms = partial(focal_and_smooth_dice, reference=reference)
