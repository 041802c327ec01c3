"""What the frameworks' engine lacks."""

from mmkdml.engine.hooks import (
    ExactResumeHook,
    LossBalanceHook,
    MemberTableHook,
    PanelHook,
    ReliabilityHook,
    SafeResumeHook,
    member_table,
)
from mmkdml.engine.memory import keep_freed_memory
from mmkdml.engine.optim_wrapper import CPUAmpOptimWrapper
from mmkdml.engine.optimizers import DiscriminatorOptimWrapperConstructor, SeparateOptimizers

__all__ = [
    'CPUAmpOptimWrapper',
    'DiscriminatorOptimWrapperConstructor',
    'ExactResumeHook',
    'LossBalanceHook',
    'MemberTableHook',
    'PanelHook',
    'ReliabilityHook',
    'SafeResumeHook',
    'SeparateOptimizers',
    'keep_freed_memory',
    'member_table',
]
