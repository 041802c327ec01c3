"""Hooks, logging and environment of every run."""

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
    # What is best is said by the data set: the ensemble's metric on the validation part.
    # Two, so that there is another one should a disk lose the newest.
    checkpoint=dict(type=SafeCheckpointHook, interval=1, max_keep_ckpts=2, rule='greater'),
    sampler_seed=dict(type=DistSamplerSeedHook),
    non_finite=dict(type=NonFiniteLossHook, policy='stop'),
)
custom_hooks = [dict(type=MemberTableHook), dict(type=ExactResumeHook), dict(type=ReliabilityHook)]

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    # Seconds after which a process that hangs is given up; meanwhile the main one may work alone.
    dist_cfg=dict(backend='nccl', timeout=600),
)
randomness = dict(seed=0)
log_level = 'INFO'
# 'warn': train even if the training, validation and test parts share images or patients.
split_overlap = 'error'
load_from = None
resume = False
