"""The papers' mathematics: tensors in, tensors out, no modules and no frameworks."""

from mmkdml.functional.divergence import prediction_kl
from mmkdml.functional.feature import feature_mse
from mmkdml.functional.segmentation import focal_and_dice

__all__ = ['feature_mse', 'focal_and_dice', 'prediction_kl']
