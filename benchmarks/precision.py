"""Training steps with other precisions, memory layouts, fused optimizers and torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config
from prettytable import PrettyTable

from benchmarks.steps import training_step
from benchmarks.timing import Step, median_seconds
from mmkdml.engine import compile_members
from mmkdml.inspection.config import inspect_config

FLOAT32 = 'float32'
BFLOAT16 = 'bfloat16'
#: Arguments of :func:`_prepared_step` for each form.
FORMS: dict[str, dict[str, bool]] = {
    FLOAT32: {},
    f'{FLOAT32}, channels last': dict(channels_last=True),
    f'{FLOAT32}, channels last, fused optimizer': dict(channels_last=True, fused=True),
    BFLOAT16: dict(bfloat16=True),
    f'{BFLOAT16}, channels last': dict(bfloat16=True, channels_last=True),
    f'{BFLOAT16}, channels last, fused optimizer': dict(
        bfloat16=True, channels_last=True, fused=True
    ),
}
COMPILED = {
    f'{FLOAT32}, compiled': dict(compiled=True),
    f'{BFLOAT16}, channels last, fused optimizer, compiled': dict(
        bfloat16=True, channels_last=True, fused=True, compiled=True
    ),
}


@dataclass(frozen=True)
class PrecisionCost:
    """Cost of one form of a training step.

    Attributes:
        seconds: Median over the rounds.
        gain: Speed-up over the float32 step.
        difference: Relative difference of the first loss from that of the float32 step.
    """

    seconds: float
    gain: float
    difference: float


def measure_precisions(
    config: Config, batch_size: int, rounds: int, compiled: bool = False
) -> dict[str, PrecisionCost]:
    """Measure interleaved forms of a config's training step on one dummy batch on the CPU.

    All forms start from the same random weights.

    Args:
        config: Config of a classroom or baseline.
        batch_size, rounds: See :func:`benchmarks.steps.measure_steps`.
        compiled: Add forms compiled with ``torch.compile``, which needs a C++ compiler.

    Returns:
        Costs by name, ``'float32'`` first.

    Raises:
        TypeError: If the model is neither a classroom nor a network of a supported task.
        ValueError: If the model is invalid, or a number is below 1.
    """
    losses: dict[str, list[float]] = {}
    steps: dict[str, Step] = {}
    for name, form in {**FORMS, **(COMPILED if compiled else {})}.items():
        losses[name] = []
        steps[name] = _prepared_step(config, batch_size, losses[name], **form)
    seconds = median_seconds(steps, rounds)
    plain = losses[FLOAT32][0]
    return {
        name: PrecisionCost(
            seconds[name],
            seconds[FLOAT32] / seconds[name],
            abs(losses[name][0] - plain) / abs(plain),
        )
        for name in steps
    }


def format_precisions(costs: Mapping[str, PrecisionCost]) -> str:
    """Format the costs as a table."""
    table = PrettyTable(['step', 'seconds', 'gain', 'difference of the loss'], align='r')
    table.align['step'] = 'l'
    for name, cost in costs.items():
        table.add_row([name, f'{cost.seconds:.3f}', f'{cost.gain:.2f}', f'{cost.difference:.1e}'])
    return table.get_string()


def _prepared_step(
    config: Config,
    batch_size: int,
    losses: list[float],
    bfloat16: bool = False,
    channels_last: bool = False,
    fused: bool = False,
    compiled: bool = False,
) -> Step:
    """Build a step that appends its loss to ``losses``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inspection = inspect_config(config)
        wrapper: dict[str, Any] = copy.deepcopy(config.optim_wrapper)
        if bfloat16:
            wrapper['type'] = 'mmkdml.CPUAmpOptimWrapper'
        if fused:
            wrapper['optimizer']['fused'] = True
        model: Any = inspection.distiller or next(iter(inspection.members.values()))
        if channels_last:
            model.to(memory_format=torch.channels_last)
        if compiled:
            compile_members(model)
        step = training_step(inspection, model, wrapper, batch_size)
    return lambda: losses.append(step())
