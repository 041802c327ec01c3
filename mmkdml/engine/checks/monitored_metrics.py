"""Check the metrics that select checkpoints, stop training or set learning rates."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.hooks import CheckpointHook, EarlyStoppingHook, Hook
from mmengine.runner import Runner

from mmkdml.engine.unwrap import unwrap_model
from mmkdml.metric_info import METRIC_INFOS, class_of_metric
from mmkdml.names import ALL_STUDENTS, ENSEMBLE, PLAIN, TEACHER
from mmkdml.registry import HOOKS

# Better direction by the last part of a metric's name, in lower case.
_RULES = {
    name.rpartition('/')[2].lower(): 'greater' if info.higher_is_better else 'less'
    for name, info in METRIC_INFOS.items()
    if info.higher_is_better is not None
}

# Names of members; other first parts of keys are prefixes of metrics.
_MEMBER = re.compile(rf'{ENSEMBLE}|{ALL_STUDENTS}|{PLAIN}|{TEACHER}|student_\d+')


@HOOKS.register_module()
class MonitoredMetricsHook(Hook):
    """Check that monitored metrics exist and are compared in the right direction.

    Monitored metrics are ``save_best`` of the checkpoint hook and ``monitor`` of
    ``EarlyStoppingHook`` and ``ReduceOnPlateauLR``. If a metric does not exist, mmengine raises a
    ``KeyError``, or never stops early or reduces the learning rate. With the wrong ``rule`` it
    keeps the worst checkpoint as the best; ``ReduceOnPlateauLR`` defaults to ``rule='less'``.

    Raises:
        ValueError: Before training, if ``rule`` is wrong for a known metric, or the network does
            not have the member of a metric; after a validation, if a metric is missing.
    """

    priority = 'HIGHEST'  # Before the hooks that use the metrics.

    def __init__(self) -> None:
        self._monitored: list[tuple[str, str, str]] = []

    def before_train(self, runner: Runner) -> None:
        """Check members and rules."""
        self._monitored = [*_monitored(runner)]
        members, prefixes = _members(unwrap_model(runner.model)), _prefixes(runner)
        for setting, key, rule in self._monitored:
            name = key.partition('/')[0]
            if _MEMBER.fullmatch(name) and name not in (*members, *prefixes):
                raise ValueError(
                    f'{setting}: expected a metric of {" or ".join(members)}, got {key!r}: the '
                    f'network has no {name}. Begin the key with one of these'
                )
            metric, *_ = class_of_metric(key) or [key.rpartition('/')[2]]
            expected = _RULES.get(metric.lower(), rule)
            if rule != expected:
                raise ValueError(
                    f'{setting}: expected rule={expected!r} for {key}, got {rule!r}, with which '
                    f'the worst value counts as the best. Set rule={expected!r} next to it'
                )

    def after_val_epoch(self, runner: Runner, metrics: Mapping[str, Any] | None = None) -> None:
        """Check the metrics of this validation."""
        for setting, key, _ in self._monitored:
            if metrics and key not in metrics:
                raise ValueError(
                    f'{setting}: expected a metric of the validation, got {key!r}. Choose one of '
                    f'{", ".join(metrics)}'
                )


def _monitored(runner: Runner) -> Iterator[tuple[str, str, str]]:
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.save_best is not None:
            for key, rule in zip(hook.key_indicators, hook.rules, strict=True):
                if key != 'auto':
                    yield 'save_best of the checkpoint hook', key, rule
        elif isinstance(hook, EarlyStoppingHook):
            yield 'monitor of EarlyStoppingHook', hook.monitor, hook.rule
    schedulers = runner.param_schedulers or []
    groups = schedulers.values() if isinstance(schedulers, dict) else [schedulers]
    for scheduler in (one for group in groups for one in group):
        if key := getattr(scheduler, 'monitor', None):
            yield f'monitor of {type(scheduler).__name__}', key, scheduler.rule


def _members(network: Any) -> tuple[str, ...]:
    """Return the names with which the metrics of a network's members begin."""
    if not hasattr(network, 'named_members'):
        return (PLAIN,)
    return (*network.named_members(), ALL_STUDENTS, ENSEMBLE)


def _prefixes(runner: Runner) -> set[str]:
    """Return the first parts of the prefixes of the metrics, which may be called like members."""
    metrics = getattr(getattr(runner, 'val_evaluator', None), 'metrics', ())
    return {str(getattr(metric, 'prefix', None)).partition('/')[0] for metric in metrics}
