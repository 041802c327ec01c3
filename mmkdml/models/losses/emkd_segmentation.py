"""EMKD's supervised segmentation loss as a loss of mmseg's decode heads."""

from __future__ import annotations

from functools import partial

from mmkdml.functional.segmentation import FOCAL_REFERENCES, focal_and_smooth_dice
from mmkdml.functional.structure import check_reference
from mmkdml.models.losses.focal_dice_loss import FocalDiceLoss
from mmkdml.registry import MODELS


@MODELS.register_module()
class FocalSmoothDiceLoss(FocalDiceLoss):
    """Half focal, half smooth Dice: EMKD's, for ``loss_decode`` of any mmseg head.

    Formula and references: :func:`mmkdml.functional.segmentation.focal_and_smooth_dice`.

    Args:
        focusing: The focal term's exponent.
        focal_weight: Weight of the focal term.
        dice_weight: Weight of the Dice term.
        loss_weight: Weight of the sum.
        loss_name: Its key in the log; must begin with ``loss`` to be optimised.
        reference: ``'emkd'``, or ``'origin'`` for the gradient of the focal loss as published.

    Raises:
        ValueError: If ``loss_name`` does not begin with ``loss``, or the reference is unknown.
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
        check_reference(reference, FOCAL_REFERENCES)
        self.reference = reference
        self.terms = partial(focal_and_smooth_dice, reference=reference)
