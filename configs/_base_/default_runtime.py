"""Hooks, logging and environment shared by all configs."""

from mmengine.hooks import DistSamplerSeedHook, IterTimerHook, ParamSchedulerHook

from mmkdml.engine import (
    ExactResumeHook,
    MemberTableHook,
    NonFiniteLossHook,
    ReliabilityHook,
    SafeCheckpointHook,
    StrictJsonLoggerHook,
)

default_scope = None

default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=StrictJsonLoggerHook, interval=50),
    param_scheduler=dict(type=ParamSchedulerHook),
    # The configs of the data sets set save_best, a metric on the validation split. Two
    # checkpoints are kept in case the newest one is damaged.
    checkpoint=dict(type=SafeCheckpointHook, interval=1, max_keep_ckpts=2, rule='greater'),
    sampler_seed=dict(type=DistSamplerSeedHook),
    non_finite=dict(type=NonFiniteLossHook, policy='stop'),
)
custom_hooks = [dict(type=MemberTableHook), dict(type=ExactResumeHook), dict(type=ReliabilityHook)]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Seconds until a collective call fails; longer than any work that only the main process does.
    dist_cfg=dict(backend='nccl', timeout=600),
)
randomness = dict(seed=0)
log_level = 'INFO'
# 'warn' allows training, validation and test splits that share images or patients.
split_overlap = 'error'
load_from = None
resume = False
