"""Hooks that show what the members learned."""

from mmkdml.engine.hooks.member_table import MemberTableHook, member_table
from mmkdml.engine.hooks.panels import PanelHook

__all__ = ['MemberTableHook', 'PanelHook', 'member_table']
