"""Loss functions of the papers on plain tensors, without modules or frameworks."""

from mmkdml.functional.adversarial import discriminator_error, gradient_penalty, learner_realism
from mmkdml.functional.attention import attention_difference, attention_map
from mmkdml.functional.channel import category_similarity, channel_wise_kl
from mmkdml.functional.cka import linear_cka, unbiased_hsic
from mmkdml.functional.correlation import feature_correlation, relation_difference
from mmkdml.functional.detection import detection_divergence
from mmkdml.functional.divergence import prediction_kl
from mmkdml.functional.feature import feature_mse
from mmkdml.functional.focal import focal_difference
from mmkdml.functional.generation import masked_generation, random_mask
from mmkdml.functional.importance import importance_difference, pixel_similarity
from mmkdml.functional.information import variational_information
from mmkdml.functional.logits import decoupled_kl, standardized_logits
from mmkdml.functional.regions import intra_class_variation, region_affinity
from mmkdml.functional.regression import softmax_regression
from mmkdml.functional.segmentation import focal_and_dice, focal_and_smooth_dice
from mmkdml.functional.shapes import pooled_to_smaller
from mmkdml.functional.similarity import (
    calibrated_error,
    sample_similarities,
    similarity_difference,
)
from mmkdml.functional.structure import pair_wise_difference, pixel_wise_divergence

__all__ = [
    'attention_difference',
    'attention_map',
    'calibrated_error',
    'category_similarity',
    'channel_wise_kl',
    'decoupled_kl',
    'detection_divergence',
    'discriminator_error',
    'feature_correlation',
    'feature_mse',
    'focal_and_dice',
    'focal_and_smooth_dice',
    'focal_difference',
    'gradient_penalty',
    'importance_difference',
    'intra_class_variation',
    'learner_realism',
    'linear_cka',
    'masked_generation',
    'pair_wise_difference',
    'pixel_similarity',
    'pixel_wise_divergence',
    'pooled_to_smaller',
    'prediction_kl',
    'random_mask',
    'region_affinity',
    'relation_difference',
    'sample_similarities',
    'similarity_difference',
    'softmax_regression',
    'standardized_logits',
    'unbiased_hsic',
    'variational_information',
]
