"""Evaluation of single networks with fused batch normalizations."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.engine.unwrap import unwrap_model
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.inference_copies import FusedStep
from mmkdml.models.tasks import task_of
from mmkdml.names import PLAIN

_STEPS = ('val_step', 'test_step')


class FusedEvaluationHook(Hook):
    """Validate and test single networks with :func:`use_fused_step`.

    The copy is freed afterwards, because later changes of weights by hooks may not be detected.
    """

    def before_val_epoch(self, runner: Runner) -> None:
        """Predict with a copy, which is built for the first batch."""
        use_fused_step(unwrap_model(runner.model))

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Free the copy."""
        for step in _STEPS:
            vars(unwrap_model(runner.model)).pop(step, None)

    before_test_epoch = before_val_epoch
    after_test_epoch = after_val_epoch


def use_fused_step(network: Any) -> None:
    """Predict with a copy of a single network, see :class:`InferenceCopies`.

    Classrooms use copies themselves. Networks of other tasks are not changed.
    """
    if isinstance(network, KnowledgeDistiller):
        return
    with suppress(TypeError):
        step = FusedStep(network, task_of({PLAIN: network}).logits)
        vars(network).update(dict.fromkeys(_STEPS, step))
