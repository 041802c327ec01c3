"""What a classroom's training step costs beside the plain steps of its members."""

from __future__ import annotations

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmkdml.analysis.inspection import Inspection, inspect_config
from mmkdml.engine import keep_freed_memory

CLASSROOM = 'classroom'
Step = Callable[[], None]


@dataclass(frozen=True)
class StepCost:
    """Cost of one kind of step.

    Attributes:
        seconds: Median over the rounds.
        memory: Highest resident memory of a process that does nothing else, above what it had
            before the networks were built, in MiB.
    """

    seconds: float
    memory: float


def measure_steps(config: Config, batch_size: int, rounds: int) -> dict[str, StepCost]:
    """Measures the classroom's step and each member's own, on one made-up batch.

    The steps take turns, so that a machine that slows down slows all of them. A frozen member's
    step is a forward in inference mode. Memory is measured in a new process for each.

    Args:
        config: A classroom's config.
        batch_size: Images in the batch.
        rounds: Measured steps of each kind, after one that is not.

    Returns:
        The costs by name, ``'classroom'`` first.

    Raises:
        TypeError: If the config is of a baseline.
    """
    keep_freed_memory()  # as a training run on a CPU does
    inspection = inspect_config(config)
    if inspection.distiller is None:
        raise TypeError(
            'A step is compared with those of its members, but this config is of one '
            "network alone; give a classroom's"
        )
    names = [CLASSROOM, *inspection.members]
    steps = {name: _step(inspection, config, name, batch_size) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                times[name].append(time.perf_counter() - start)
    context = multiprocessing.get_context('spawn')
    costs = {}
    for name in names:
        with context.Pool(1) as pool:
            memory = pool.apply(_peak_memory, (config, name, batch_size, torch.get_num_threads()))
        costs[name] = StepCost(statistics.median(times[name]), memory)
    return costs


def format_costs(costs: dict[str, StepCost]) -> str:
    """The costs as a table, with the classroom's share of the members' sum."""
    rows = [(name, cost.seconds, cost.memory) for name, cost in costs.items()]
    seconds, memory = (sum(column) for column in list(zip(*rows[1:], strict=True))[1:])
    lines = [f'{"step":<22}{"seconds":>9}{"peak MiB":>10}']
    lines += [f'{name:<22}{s:>9.3f}{m:>10.0f}' for name, s, m in rows[1:]]
    lines += [
        f'{"sum of the members":<22}{seconds:>9.3f}{memory:>10.0f}',
        f'{rows[0][0]:<22}{rows[0][1]:>9.3f}{rows[0][2]:>10.0f}',
        f'{"ratio":<22}{rows[0][1] / seconds:>9.3f}{rows[0][2] / memory:>10.3f}',
    ]
    return '\n'.join(lines)


def _step(inspection: Inspection, config: Config, name: str, batch_size: int) -> Step:
    """One training step of the classroom or, of its own, of a member."""
    distiller = inspection.distiller
    assert distiller is not None
    inputs = torch.randn(batch_size, 3, *inspection.input_size)
    samples = inspection.task.made_up_samples(batch_size, inspection.input_size)
    if name in distiller.frozen_names:
        member = inspection.members[name]

        def look() -> None:
            with torch.inference_mode():
                inspection.task.logits(member, inputs)

        return look
    model: Any = (distiller if name == CLASSROOM else inspection.members[name]).train()
    wrapper = build_optim_wrapper(model, config.optim_wrapper)

    def train() -> None:
        with wrapper.optim_context(model):
            losses = model(inputs, samples, mode='loss')
        wrapper.update_params(model.parse_losses(losses)[0])

    return train


def _peak_memory(config: Config, name: str, batch_size: int, threads: int) -> float:
    torch.set_num_threads(threads)
    keep_freed_memory()
    before = _highest_resident()
    inspection = inspect_config(config)
    if name != CLASSROOM:  # the others would be in the way
        assert inspection.distiller is not None
        for other in inspection.members.keys() - {name}:
            inspection.members[other].to_empty(device='meta')
    step = _step(inspection, config, name, batch_size)
    for _ in range(2):  # the optimiser's state comes with the first
        step()
    return _highest_resident() - before


def _highest_resident() -> float:
    """MiB; the operating system keeps the mark."""
    status = Path('/proc/self/status')
    if status.exists():
        line = next(x for x in status.read_text().splitlines() if x.startswith('VmHWM'))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == 'darwin' else peak / 1024
