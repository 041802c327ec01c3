"""Registered losses: of transfers, and the paper's supervised one."""

from mmkdml.models.losses.focal_dice_loss import FocalDiceLoss
from mmkdml.models.losses.transfer_losses import FeatureMSELoss, PredictionKLLoss

__all__ = ['FeatureMSELoss', 'FocalDiceLoss', 'PredictionKLLoss']
