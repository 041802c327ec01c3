"""Hooks that show what the members learned, and one that makes stopping harmless."""

from mmkdml.engine.hooks.exact_resume import ExactResumeHook
from mmkdml.engine.hooks.member_table import MemberTableHook, member_table
from mmkdml.engine.hooks.panels import PanelHook

__all__ = ['ExactResumeHook', 'MemberTableHook', 'PanelHook', 'member_table']
