"""What the frameworks' engine lacks."""

from mmkdml.engine.hooks import MemberTableHook, PanelHook, member_table
from mmkdml.engine.optim_wrapper import CPUAmpOptimWrapper

__all__ = ['CPUAmpOptimWrapper', 'MemberTableHook', 'PanelHook', 'member_table']
