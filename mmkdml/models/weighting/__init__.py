"""Transfer weights that change during training: schedules and learned weights."""

from mmkdml.models.weighting.grad_norm import GradNorm
from mmkdml.models.weighting.learned_weights import LearnedWeights, WeightedLoss
from mmkdml.models.weighting.schedules import (
    ConstantWeight,
    CosineAnnealingWeight,
    CosineWarmupWeight,
    ExponentialWeight,
    LinearWeight,
    MultiStepWeight,
    PolyWeight,
    StepWeight,
    WeightSchedule,
)
from mmkdml.models.weighting.uncertainty import UncertaintyWeighting

__all__ = [
    'ConstantWeight',
    'CosineAnnealingWeight',
    'CosineWarmupWeight',
    'ExponentialWeight',
    'GradNorm',
    'LearnedWeights',
    'LinearWeight',
    'MultiStepWeight',
    'PolyWeight',
    'StepWeight',
    'UncertaintyWeighting',
    'WeightSchedule',
    'WeightedLoss',
]
