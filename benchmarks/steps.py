"""Training step of a classroom compared with the steps of its members or of other classrooms."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from prettytable import PrettyTable
from torch import Tensor

from benchmarks.timing import Step, StepCost, cost_cells, median_seconds, named_errors, peak_memory
from mmkdml.inspection.complexity import count_parameters
from mmkdml.inspection.config import Inspection, inspect_config
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.models.input_channels import input_channels
from mmkdml.models.tasks.base import Samples

CLASSROOM = 'classroom'


@dataclass(frozen=True)
class MethodCost:
    """Cost of one of several classrooms.

    Attributes:
        step: Cost of its training step.
        parameters: Number of parameters of its members, losses and projectors.
    """

    step: StepCost
    parameters: int


def measure_steps(config: Config, batch_size: int, rounds: int) -> dict[str, StepCost]:
    """Measure the step of a classroom and the separate step of each member on dummy batches.

    The steps are interleaved. The step of a frozen member is a forward pass in inference mode.

    Args:
        config: Config of a classroom.
        batch_size: Images per batch.
        rounds: Measured steps of each kind, after one warm-up step.

    Returns:
        Costs by name, ``'classroom'`` first.

    Raises:
        TypeError: If the config is a baseline.
        ValueError: If the model is invalid, or a number is below 1.
    """
    inspection = inspect_config(config)
    classroom_of(inspection, 'this config')
    names = [CLASSROOM, *inspection.members]
    steps = {name: step_of(inspection, config, name, batch_size) for name in names}
    seconds = median_seconds(steps, rounds)
    return {
        name: StepCost(seconds[name], peak_memory(_step_twice, config, name, batch_size))
        for name in names
    }


def measure_methods(
    configs: Mapping[str, Config], batch_size: int, rounds: int
) -> dict[str, MethodCost]:
    """Measure the steps of several classrooms as :func:`measure_steps` measures those of one.

    All classrooms are in memory at the same time. Returns the costs by name, in the same order.

    Raises:
        TypeError: If a config is a baseline.
        ValueError: If a model is invalid, task or input size differ, or a number is below 1.
    """
    inspections, classrooms = {}, {}
    for name, config in configs.items():
        with named_errors(name):
            inspections[name] = inspect_config(config)
        classrooms[name] = classroom_of(inspections[name], name)
    kinds = {name: (room.task.name, room.input_size) for name, room in classrooms.items()}
    if len(set(kinds.values())) > 1:
        raise ValueError(
            'Invalid configs: expected one task and input size, got '
            + ', '.join(f'{name}: {task} {size}' for name, (task, size) in kinds.items())
            + '. Measure them separately, or set model.input_size'
        )
    steps = {
        name: step_of(inspections[name], config, CLASSROOM, batch_size)
        for name, config in configs.items()
    }
    seconds = median_seconds(steps, rounds)
    return {
        name: MethodCost(
            StepCost(seconds[name], peak_memory(_step_twice, config, CLASSROOM, batch_size)),
            count_parameters(classrooms[name]),
        )
        for name, config in configs.items()
    }


def format_costs(costs: dict[str, StepCost]) -> str:
    """Format the costs as a table with the ratio of the classroom to the sum of its members."""
    classroom = costs[CLASSROOM]
    members = {name: cost for name, cost in costs.items() if name != CLASSROOM}
    total = StepCost(
        sum(cost.seconds for cost in members.values()),
        sum(cost.memory for cost in members.values()),
    )
    table = PrettyTable(['step', 'seconds', 'peak MiB'], align='r')
    table.align['step'] = 'l'
    for name, cost in {**members, 'sum of the members': total, CLASSROOM: classroom}.items():
        table.add_row([name, f'{cost.seconds:.3f}', f'{cost.memory:.0f}'])
    ratios = (classroom.seconds / total.seconds, classroom.memory / total.memory)
    table.add_row(['ratio', *(f'{ratio:.3f}' for ratio in ratios)])
    return table.get_string()


def format_method_costs(costs: dict[str, MethodCost]) -> str:
    """Format the costs as a table relative to the first classroom."""
    table = PrettyTable(
        ['config', 'seconds', 'ratio', 'peak MiB', 'ratio of memory', 'more parameters'], align='r'
    )
    table.align['config'] = 'l'
    first = next(iter(costs.values()))
    for name, cost in costs.items():
        table.add_row(
            [name, *cost_cells(cost.step, first.step), f'{cost.parameters - first.parameters:,}']
        )
    return table.get_string()


def classroom_of(inspection: Inspection, what: str) -> KnowledgeDistiller:
    """Return the classroom; raise TypeError with the name ``what`` if there is none."""
    if inspection.distiller is None:
        raise TypeError(f'Invalid config: expected a classroom, got a single network in {what}')
    return inspection.distiller


def step_of(inspection: Inspection, config: Config, name: str, batch_size: int) -> Step:
    """Build the step of a member, or of all together (:data:`CLASSROOM`), on a dummy batch.

    Raises:
        TypeError: If the inspected config is a baseline.
        ValueError: If ``batch_size`` is below 1.
    """
    distiller = classroom_of(inspection, name)
    if name not in distiller.frozen_names:
        model = distiller if name == CLASSROOM else inspection.members[name]
        return training_step(inspection, model, config.optim_wrapper, batch_size)
    member = inspection.members[name]
    inputs, _ = dummy_batch(inspection, batch_size)

    def forward() -> None:
        with torch.inference_mode():
            inspection.task.logits(member, inputs)

    return forward


def training_step(
    inspection: Inspection, model: Any, optim_wrapper: Mapping[str, Any], batch_size: int
) -> Callable[[], float]:
    """Build a training step of a classroom or member on a dummy batch; it returns the total loss.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """
    inputs, samples = dummy_batch(inspection, batch_size)
    wrapper = build_optim_wrapper(model.train(), optim_wrapper)
    set_base_weights(model)

    def train() -> float:
        with wrapper.optim_context(model):
            losses = model(inputs, samples, mode='loss')
        loss, _ = model.parse_losses(losses)
        wrapper.update_params(loss)
        return loss.item()

    return train


def set_base_weights(model: Any) -> None:
    """Set the weights of transfers that have a schedule to their base weights."""
    for term in getattr(model, 'transfer_terms', ()):
        if term.transfer.schedule:
            term.set_weight(term.transfer.weight)


def dummy_batch(inspection: Inspection, batch_size: int) -> tuple[Tensor, Samples]:
    """Build random images (N, C, H, W) and their samples.

    Raises:
        ValueError: If ``batch_size`` is below 1.
    """
    if batch_size < 1:
        raise ValueError(f'Invalid batch_size: expected at least 1, got {batch_size}')
    channels = input_channels(next(iter(inspection.members.values())))
    inputs = torch.randn(batch_size, channels, *inspection.input_size)
    return inputs, inspection.task.dummy_samples(batch_size, inspection.input_size)


def _step_twice(config: Config, name: str, batch_size: int) -> None:
    """Take two steps, because the first one allocates the optimizer's state."""
    inspection = inspect_config(config)
    if name != CLASSROOM:  # free the memory of the other members
        for other in inspection.members.keys() - {name}:
            inspection.members[other].to_empty(device='meta')
    step = step_of(inspection, config, name, batch_size)
    for _ in range(2):
        step()
