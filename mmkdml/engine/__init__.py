"""What the frameworks' engine lacks."""

from mmkdml.engine.checkpoint_files import INTERRUPTED
from mmkdml.engine.hooks import (
    ExactResumeHook,
    LossBalanceHook,
    MemberTableHook,
    NonFiniteLossHook,
    PanelHook,
    ProfileHook,
    ReliabilityHook,
    SafeCheckpointHook,
    SafeResumeHook,
    member_table,
)
from mmkdml.engine.loops import ResumableIterTrainLoop, ResumableLoop, ResumableTrainLoop
from mmkdml.engine.memory import keep_freed_memory
from mmkdml.engine.optim_wrapper import CPUAmpOptimWrapper
from mmkdml.engine.optimizers import DiscriminatorOptimWrapperConstructor, SeparateOptimizers

__all__ = [
    'CPUAmpOptimWrapper',
    'DiscriminatorOptimWrapperConstructor',
    'INTERRUPTED',
    'ExactResumeHook',
    'LossBalanceHook',
    'MemberTableHook',
    'NonFiniteLossHook',
    'PanelHook',
    'ProfileHook',
    'ReliabilityHook',
    'ResumableIterTrainLoop',
    'ResumableLoop',
    'ResumableTrainLoop',
    'SafeCheckpointHook',
    'SafeResumeHook',
    'SeparateOptimizers',
    'keep_freed_memory',
    'member_table',
]
