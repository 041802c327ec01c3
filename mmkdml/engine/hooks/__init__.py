"""Hooks that log and draw results, profile training, and make runs safer or faster."""

from mmkdml.engine.hooks.channels_last import ChannelsLastHook
from mmkdml.engine.hooks.compile_members import CompileMembersHook, compile_members
from mmkdml.engine.hooks.confusion_hook import ConfusionHook
from mmkdml.engine.hooks.loss_balance import LossBalanceHook
from mmkdml.engine.hooks.member_table import MemberTableHook, member_table
from mmkdml.engine.hooks.non_finite import NonFiniteLossHook
from mmkdml.engine.hooks.panel_hook import PanelHook
from mmkdml.engine.hooks.profile import ProfileHook
from mmkdml.engine.hooks.progress import ProgressHook
from mmkdml.engine.hooks.reliability_hook import ReliabilityHook
from mmkdml.engine.hooks.strict_weights import StrictWeightsHook
from mmkdml.engine.hooks.transfer_weights import TransferWeightHook
from mmkdml.engine.hooks.watch_loaders import WatchLoadersHook
from mmkdml.engine.resume.exact_resume import ExactResumeHook
from mmkdml.engine.resume.run_identity import RunIdentityHook
from mmkdml.engine.resume.safe_checkpoint import SafeCheckpointHook
from mmkdml.engine.resume.safe_resume import SafeResumeHook

__all__ = [
    'ChannelsLastHook',
    'CompileMembersHook',
    'ConfusionHook',
    'ExactResumeHook',
    'LossBalanceHook',
    'MemberTableHook',
    'NonFiniteLossHook',
    'PanelHook',
    'ProfileHook',
    'ProgressHook',
    'ReliabilityHook',
    'RunIdentityHook',
    'SafeCheckpointHook',
    'SafeResumeHook',
    'StrictWeightsHook',
    'TransferWeightHook',
    'WatchLoadersHook',
    'compile_members',
    'member_table',
]
