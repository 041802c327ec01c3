"""Hooks that show how and what the members learn, and two that make stopping harmless."""

from mmkdml.engine.hooks.exact_resume import ExactResumeHook
from mmkdml.engine.hooks.loss_balance import LossBalanceHook
from mmkdml.engine.hooks.member_table import MemberTableHook, member_table
from mmkdml.engine.hooks.panels import PanelHook
from mmkdml.engine.hooks.reliability import ReliabilityHook
from mmkdml.engine.hooks.safe_checkpoint import SafeCheckpointHook
from mmkdml.engine.hooks.safe_resume import SafeResumeHook

__all__ = [
    'ExactResumeHook',
    'LossBalanceHook',
    'MemberTableHook',
    'PanelHook',
    'ReliabilityHook',
    'SafeCheckpointHook',
    'SafeResumeHook',
    'member_table',
]
