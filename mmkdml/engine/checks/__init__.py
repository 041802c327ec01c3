"""Checks of settings, weights and data before training and testing."""

from mmengine.runner import Runner

from mmkdml.engine.checks.classes import ClassesHook, check_class_order
from mmkdml.engine.checks.evaluated_images import EvaluatedImagesHook
from mmkdml.engine.checks.monitored_metrics import MonitoredMetricsHook
from mmkdml.engine.checks.small_batch import SmallBatchHook
from mmkdml.engine.checks.split_overlap import SplitOverlapHook

__all__ = [
    'ClassesHook',
    'EvaluatedImagesHook',
    'MonitoredMetricsHook',
    'SmallBatchHook',
    'SplitOverlapHook',
    'check_class_order',
    'register_checks',
]


def register_checks(runner: Runner) -> None:
    """Register all checks with a runner."""
    for hook in (
        ClassesHook,
        EvaluatedImagesHook,
        MonitoredMetricsHook,
        SplitOverlapHook,
        SmallBatchHook,
    ):
        # Before RunIdentityHook removes the checkpoints that are overwritten.
        runner.register_hook(hook(), priority='HIGHEST')
