"""Forward passes of members with and without fused batch normalizations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import torch
from mmengine.config import Config
from prettytable import PrettyTable
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from benchmarks.steps import dummy_batch
from benchmarks.timing import Step, median_seconds
from mmkdml.inspection.config import inspect_config
from mmkdml.models.inference_copies import InferenceCopies


@dataclass(frozen=True)
class InferenceCost:
    """Cost of a member's forward pass for inference.

    Attributes:
        plain: Seconds of the network; median over the rounds.
        fused: Seconds of its copy; see :class:`~mmkdml.models.inference_copies.InferenceCopies`.
        norms: Number of batch normalizations.
        left: Number of them that are left in the copy.
    """

    plain: float
    fused: float
    norms: int
    left: int


def measure_inference(config: Config, batch_size: int, rounds: int) -> dict[str, InferenceCost]:
    """Measure interleaved forward passes of each member on dummy batches on the CPU.

    Args:
        config: Config of a classroom or baseline.
        batch_size: See :func:`benchmarks.steps.measure_steps`.
        rounds: See :func:`benchmarks.steps.measure_steps`.

    Returns:
        Costs by member.

    Raises:
        TypeError: If the model is neither a classroom nor a network of a supported task.
        ValueError: If the model is invalid, or a number is below 1.
    """
    inspection = inspect_config(config)
    images, _ = dummy_batch(inspection, batch_size)
    run = inspection.task.logits
    copies, networks, steps = InferenceCopies(), {}, dict[str, Step]()
    with torch.inference_mode():
        for name, member in inspection.members.items():
            member.eval()
            networks[name] = member, copies.of(member, run, images)
            for kind, network in zip(('plain', 'fused'), networks[name], strict=True):
                steps[f'{name} {kind}'] = partial(run, network, images)
        seconds = median_seconds(steps, rounds)
    return {
        name: InferenceCost(
            seconds[f'{name} plain'], seconds[f'{name} fused'], _norms(member), _norms(fused)
        )
        for name, (member, fused) in networks.items()
    }


def format_inference(costs: Mapping[str, InferenceCost]) -> str:
    """Format the costs as a table, with those of all members together."""
    table = PrettyTable(['member', 'fused', 'plain', 'seconds', 'ratio'], align='r')
    table.align['member'] = 'l'
    sums = (
        sum(getattr(one, key) for one in costs.values()) for key in vars(next(iter(costs.values())))
    )
    for name, cost in {**costs, 'sum': InferenceCost(*sums)}.items():
        table.add_row(
            [
                name,
                f'{cost.norms - cost.left} of {cost.norms}',
                *(f'{one:.3f}' for one in (cost.plain, cost.fused, cost.fused / cost.plain)),
            ]
        )
    return table.get_string()


def _norms(network: nn.Module) -> int:
    return sum(isinstance(one, _BatchNorm) for one in network.modules())
