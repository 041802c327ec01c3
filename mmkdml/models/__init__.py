"""Networks, losses, projectors, and the distillers that bring them together."""

from mmkdml.models.backbones import PretrainedTIMMBackbone, StemResNet
from mmkdml.models.distillers import DiversifiedKDMLDistiller, KnowledgeDistiller
from mmkdml.models.heads import BinaryLinearClsHead, UNetHead
from mmkdml.models.losses import FeatureMSELoss, FocalDiceLoss, PredictionKLLoss
from mmkdml.models.necks import ConvBlockNeck
from mmkdml.models.projectors import (
    ConvProjector,
    IdentityProjector,
    InterpolateProjector,
    LinearProjector,
)
from mmkdml.models.transfers import MODES, STYLES, Transfer, format_transfers, transfers_for

__all__ = [
    'MODES',
    'STYLES',
    'BinaryLinearClsHead',
    'ConvBlockNeck',
    'ConvProjector',
    'DiversifiedKDMLDistiller',
    'FeatureMSELoss',
    'FocalDiceLoss',
    'IdentityProjector',
    'InterpolateProjector',
    'KnowledgeDistiller',
    'LinearProjector',
    'PredictionKLLoss',
    'PretrainedTIMMBackbone',
    'StemResNet',
    'Transfer',
    'UNetHead',
    'format_transfers',
    'transfers_for',
]
