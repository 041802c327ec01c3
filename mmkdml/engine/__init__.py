"""Training loops, hooks, checks and optimizers on top of mmengine."""

from mmkdml.engine.checks import SmallBatchHook, SplitOverlapHook
from mmkdml.engine.hooks import (
    ChannelsLastHook,
    CompileMembersHook,
    ConfusionHook,
    ExactResumeHook,
    LossBalanceHook,
    MemberTableHook,
    NonFiniteLossHook,
    PanelHook,
    ProfileHook,
    ProgressHook,
    ReliabilityHook,
    RunIdentityHook,
    SafeCheckpointHook,
    SafeResumeHook,
    StrictWeightsHook,
    TransferWeightHook,
    WatchLoadersHook,
    compile_members,
    member_table,
)
from mmkdml.engine.member_optimizers import MemberOptimWrapperConstructor
from mmkdml.engine.memory import keep_freed_memory
from mmkdml.engine.optim_wrapper import CPUAmpOptimWrapper, has_fast_bf16
from mmkdml.engine.optimizers import DiscriminatorOptimWrapperConstructor, SeparateOptimizers
from mmkdml.engine.resume.loops import ResumableIterTrainLoop, ResumableLoop, ResumableTrainLoop
from mmkdml.engine.strict_json import StrictJsonLoggerHook, StrictJsonVisBackend
from mmkdml.engine.workers import LoaderError, watch_workers
from mmkdml.names import INTERRUPTED

__all__ = [
    'CPUAmpOptimWrapper',
    'ChannelsLastHook',
    'CompileMembersHook',
    'ConfusionHook',
    'DiscriminatorOptimWrapperConstructor',
    'INTERRUPTED',
    'LoaderError',
    'ExactResumeHook',
    'LossBalanceHook',
    'MemberOptimWrapperConstructor',
    'MemberTableHook',
    'NonFiniteLossHook',
    'PanelHook',
    'ProfileHook',
    'ProgressHook',
    'ReliabilityHook',
    'ResumableIterTrainLoop',
    'ResumableLoop',
    'ResumableTrainLoop',
    'RunIdentityHook',
    'SafeCheckpointHook',
    'SafeResumeHook',
    'SeparateOptimizers',
    'SmallBatchHook',
    'SplitOverlapHook',
    'StrictJsonLoggerHook',
    'StrictJsonVisBackend',
    'StrictWeightsHook',
    'TransferWeightHook',
    'WatchLoadersHook',
    'compile_members',
    'has_fast_bf16',
    'keep_freed_memory',
    'member_table',
    'watch_workers',
]
