"""Evaluation of single networks with fused batch normalizations."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmkdml.engine.unwrap import unwrap_model
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.inference_copies import FusedStep
from mmkdml.models.tasks import task_of
from mmkdml.names import PLAIN
from mmkdml.registry import HOOKS

_STEPS = ('val_step', 'test_step')


@HOOKS.register_module()
class FusedEvaluationHook(Hook):
    """Validate and test single networks with :func:`use_fused_step`; active by default.

    The copies of classrooms are freed afterwards, too, because hooks such as mmengine's ``EMAHook``
    change weights without a trace.

    Args:
        enabled: If False, single networks are used as they are. Classrooms have the argument
            ``fuse_batch_norms``.
    """

    def __init__(self, enabled: bool = True) -> None:
        self.enabled = enabled

    def before_val_epoch(self, runner: Runner) -> None:
        """Begin to predict with a copy, which is made for the first batch."""
        if self.enabled:
            use_fused_step(unwrap_model(runner.model))

    def after_val_epoch(self, runner: Runner, metrics: Any = None) -> None:
        """Free the copies."""
        network = unwrap_model(runner.model)
        if isinstance(network, KnowledgeDistiller):
            network.drop_copies()
        for step in _STEPS:
            vars(network).pop(step, None)

    before_test_epoch = before_val_epoch
    after_test_epoch = after_val_epoch


def use_fused_step(network: Any) -> None:
    """Predict with a copy of a single network, see :class:`InferenceCopies`.

    Classrooms do so by themselves. Networks of other tasks, and those with a ``val_step`` or
    ``test_step`` of their own, are left as they are.
    """
    own = any(getattr(type(network), step, None) is not getattr(BaseModel, step) for step in _STEPS)
    if own or isinstance(network, KnowledgeDistiller):
        return
    with suppress(TypeError):
        step = FusedStep(network, task_of({PLAIN: network}).logits)
        vars(network).update(dict.fromkeys(_STEPS, step))
