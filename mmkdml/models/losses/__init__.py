"""Losses of transfers and supervised segmentation losses, in mmengine's registry."""

from mmkdml.models.losses.attention_transfer import AttentionTransferLoss
from mmkdml.models.losses.cwd import ChannelWiseLoss
from mmkdml.models.losses.detection_prediction import DetectionPredictionLoss
from mmkdml.models.losses.discriminator import SelfAttentionDiscriminator
from mmkdml.models.losses.dist import DISTLoss
from mmkdml.models.losses.dkd import DKDLoss
from mmkdml.models.losses.dsd import CategorySimilarityLoss, PixelSimilarityLoss
from mmkdml.models.losses.emkd import ImportanceMapLoss, RegionAffinityLoss
from mmkdml.models.losses.emkd_segmentation import FocalSmoothDiceLoss
from mmkdml.models.losses.fgd import FGDLoss
from mmkdml.models.losses.fitnet import FitNetLoss, SimKDLoss
from mmkdml.models.losses.focal_dice_loss import FocalDiceLoss
from mmkdml.models.losses.holistic import HolisticLoss
from mmkdml.models.losses.ifvd import IntraClassVariationLoss
from mmkdml.models.losses.lskd import LSKDLoss
from mmkdml.models.losses.mgd import MGDLoss
from mmkdml.models.losses.pkd import PKDLoss
from mmkdml.models.losses.semckd import SemCKDLoss
from mmkdml.models.losses.similarity_preserving import SimilarityPreservingLoss
from mmkdml.models.losses.skd import PairWiseLoss, PixelWiseLoss
from mmkdml.models.losses.srrl import SRRLLoss
from mmkdml.models.losses.transfer_loss import TransferLoss
from mmkdml.models.losses.transfer_losses import FeatureMSELoss, PredictionKLLoss
from mmkdml.models.losses.variational_information import VariationalInformationLoss

__all__ = [
    'AttentionTransferLoss',
    'CategorySimilarityLoss',
    'ChannelWiseLoss',
    'DISTLoss',
    'DKDLoss',
    'DetectionPredictionLoss',
    'FGDLoss',
    'FeatureMSELoss',
    'FitNetLoss',
    'FocalDiceLoss',
    'FocalSmoothDiceLoss',
    'HolisticLoss',
    'ImportanceMapLoss',
    'IntraClassVariationLoss',
    'LSKDLoss',
    'MGDLoss',
    'PKDLoss',
    'PairWiseLoss',
    'PixelSimilarityLoss',
    'PixelWiseLoss',
    'PredictionKLLoss',
    'RegionAffinityLoss',
    'SRRLLoss',
    'SelfAttentionDiscriminator',
    'SemCKDLoss',
    'SimKDLoss',
    'SimilarityPreservingLoss',
    'TransferLoss',
    'VariationalInformationLoss',
]
