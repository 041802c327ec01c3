"""Base of learned weights: factors of a learner's losses, trained in the same run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mmkdml.models.transfers import Transfer

#: Key of the loss that trains the weights, in logs.
LEARNED_LOSS = 'loss_learned_weights'


@dataclass(frozen=True)
class WeightedLoss:
    """Loss of a learner whose weight is learned.

    Args:
        key: Key of a transfer's loss; empty for the sum of the supervised losses.
        weight: Weight in the config, > 0.
        knowledge: Kind of knowledge of a transfer; empty for the supervised losses.
    """

    key: str
    weight: float
    knowledge: str = ''


class LearnedWeights(nn.Module):
    """Multiply the losses of each learner by factors that are learned.

    The losses of a learner are the sum of its supervised losses, unless their weight is 0, and its
    transfers. The factors multiply the weights in the config. Their parameters are part of the
    model: optimizers train them, checkpoints have them, and DistributedDataParallel averages
    their gradients.

    Args:
        losses: Losses by the name of their learner.

    Attributes:
        loss_scale: Scale of the losses with mixed precision in float16, set by
            ``TransferWeightHook``.
    """

    def __init__(self, losses: Mapping[str, Sequence[WeightedLoss]]) -> None:
        super().__init__()
        self.losses = {learner: tuple(rows) for learner, rows in losses.items()}
        self.loss_scale = 1.0

    def forward(self, log: Mapping[str, Any], members: Mapping[str, nn.Module]) -> dict[str, Any]:
        """Return the losses times their factors, the resulting weights, and a loss of the weights.

        Args:
            log: Losses and other values of a step by key.
            members: Members by name.
        """
        result, own = dict(log), []
        for learner, rows in self.losses.items():
            keys = [_keys(log, learner, row) for row in rows]
            values = [_total(log, its) for its in keys]
            factors, loss = self.weigh(learner, values, members[learner])
            own.append(loss)
            for row, its, factor in zip(rows, keys, factors, strict=True):
                result |= {key: _scaled(log[key], factor) for key in its}
                name = Transfer.weight_key(row.key) if row.key else f'{learner}.weight_supervised'
                result[name] = row.weight * factor.detach()
        return {**result, LEARNED_LOSS: sum(own)}

    @abstractmethod
    def weigh(
        self, learner: str, values: Sequence[Tensor], member: nn.Module
    ) -> tuple[Tensor, Tensor]:
        """Return the factors of a learner's losses (L,) >= 0, and the loss of the weights.

        Args:
            learner: Name of the learner.
            values: Its L losses, scalars, times their weights in the config, with their graph.
            member: The learner.
        """


def _keys(log: Mapping[str, Any], learner: str, row: WeightedLoss) -> list[str]:
    transfers = f'{learner}.loss_from_'
    supervised = (key for key in log if key.startswith(f'{learner}.') and 'loss' in key)
    return [row.key] if row.key else [key for key in supervised if not key.startswith(transfers)]


def _total(log: Mapping[str, Any], keys: Sequence[str]) -> Tensor:
    """Return the sum of losses, as mmengine computes it."""
    tensors = (x for key in keys for x in _listed(log[key]))
    return sum((x.mean() for x in tensors), torch.zeros(()))


def _scaled(value: Any, factor: Tensor) -> Any:
    listed = [factor * one for one in _listed(value)]
    return listed if isinstance(value, list | tuple) else listed[0]


def _listed(value: Any) -> Sequence[Tensor]:
    return value if isinstance(value, list | tuple) else [value]
