"""Building the learned weights of a classroom."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import nn

from mmkdml.models.distillers.terms.build_terms import build_module
from mmkdml.models.distillers.terms.transfer_terms import TransferTerm
from mmkdml.models.tasks import Task
from mmkdml.models.weighting import LearnedWeights, WeightedLoss


def build_learned_weights(
    config: Any,
    terms: Sequence[TransferTerm],
    supervised_weights: Mapping[str, float],
    members: Mapping[str, nn.Module],
    task: Task,
) -> LearnedWeights | None:
    """Build the learned weights of all learners from their config; None without a config.

    Raises:
        ValueError: If the config is invalid, there are no transfers, or one has a schedule.
    """
    if config is None:
        return None
    if not terms:
        raise ValueError('learned_weights needs at least one transfer with a positive weight')
    for term in terms:
        if term.transfer.schedule:
            raise ValueError(
                f'Invalid transfer {term.transfer}: a weight is learned or has a schedule, got '
                'both. A schedule would have no effect, because the learned factor compensates for '
                'it. Remove learned_weights or the schedule'
            )
    losses = {}
    for learner in dict.fromkeys(term.transfer.learner for term in terms):
        rows = [WeightedLoss('', supervised_weights[learner])]
        rows += [
            WeightedLoss(term.key, term.transfer.weight, term.transfer.knowledge)
            for term in terms
            if term.transfer.learner == learner
        ]
        losses[learner] = [row for row in rows if row.weight > 0]
    learners = {learner: members[learner] for learner in losses}
    default_layers = {}
    for name, member in learners.items():
        with suppress(ValueError):  # a network of timm that does not list its stages
            default_layers[name] = task.default_tap(member)
    built = build_module(
        'learned_weights', config, losses=losses, members=learners, default_layers=default_layers
    )
    if not isinstance(built, LearnedWeights):
        raise ValueError(
            "learned_weights must be a config such as dict(type='UncertaintyWeighting') or "
            f"dict(type='GradNorm'), got {config!r}"
        )
    return built
