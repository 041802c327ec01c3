"""What the frameworks' engine lacks."""

from mmkdml.engine.hooks import ExactResumeHook, MemberTableHook, PanelHook, member_table
from mmkdml.engine.memory import keep_freed_memory
from mmkdml.engine.optim_wrapper import CPUAmpOptimWrapper

__all__ = [
    'CPUAmpOptimWrapper',
    'ExactResumeHook',
    'MemberTableHook',
    'PanelHook',
    'keep_freed_memory',
    'member_table',
]
