"""Checks before the first step of a training or a test."""

from mmengine.runner import Runner

from mmkdml.engine.checks.small_batch import SmallBatchHook
from mmkdml.engine.checks.split_overlap import SplitOverlapHook

__all__ = ['SmallBatchHook', 'SplitOverlapHook', 'register_checks']


def register_checks(runner: Runner) -> None:
    """Have a runner make all checks that need no setting."""
    runner.register_hook(SplitOverlapHook())
    runner.register_hook(SmallBatchHook())
