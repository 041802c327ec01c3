"""Hooks that show how the members learn and what takes time, and that keep a run from harm."""

from mmkdml.engine.hooks.exact_resume import ExactResumeHook
from mmkdml.engine.hooks.loss_balance import LossBalanceHook
from mmkdml.engine.hooks.member_table import MemberTableHook, member_table
from mmkdml.engine.hooks.non_finite import NonFiniteLossHook
from mmkdml.engine.hooks.panels import PanelHook
from mmkdml.engine.hooks.profile import ProfileHook
from mmkdml.engine.hooks.reliability import ReliabilityHook
from mmkdml.engine.hooks.safe_checkpoint import SafeCheckpointHook
from mmkdml.engine.hooks.safe_resume import SafeResumeHook

__all__ = [
    'ExactResumeHook',
    'LossBalanceHook',
    'MemberTableHook',
    'NonFiniteLossHook',
    'PanelHook',
    'ProfileHook',
    'ReliabilityHook',
    'SafeCheckpointHook',
    'SafeResumeHook',
    'member_table',
]
