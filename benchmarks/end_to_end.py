"""Speed of training runs with data loading, of a classroom and of its members."""

from __future__ import annotations

import copy
import gc
import tempfile
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.runner import IterBasedTrainLoop, Runner
from prettytable import PrettyTable
from torch import Tensor, nn

from benchmarks.steps import CLASSROOM, classroom_of
from mmkdml.engine import keep_freed_memory
from mmkdml.inspection.config import inspect_config
from mmkdml.models.tasks import Task
from mmkdml.profiling import interleaved_medians

WARM_UP = 5  # iterations that start the workers and allocate memory


@dataclass(frozen=True)
class RunSpeed:
    """Speed of a training run.

    Attributes:
        batch_seconds: Seconds per iteration, median over the rounds.
        images: Images per second.
    """

    batch_seconds: float
    images: float


def measure_runs(config: Config, iterations: int, rounds: int) -> dict[str, RunSpeed]:
    """Measure interleaved training runs of the classroom and of each member on the same data.

    Runs use mmengine's Runner without validation, checkpoints and pretrained weights. The classroom
    has the hooks of its config, a member mmengine's default hooks. A frozen member only runs
    forward in inference mode.

    Args:
        config: Config of a classroom.
        iterations: Measured iterations of each run after a warm-up, >= 1.
        rounds: Runs of the classroom and of each member, >= 1.

    Returns:
        Speeds by name, ``'classroom'`` first.

    Raises:
        TypeError: If the config is a baseline.
        ValueError: If the model is invalid, or a number is below 1.
    """
    if min(iterations, rounds) < 1:
        raise ValueError(
            f'Invalid iterations or rounds: expected at least 1, got {iterations} and {rounds}'
        )
    inspection = inspect_config(config)
    classroom_of(inspection, 'this config')
    keep_freed_memory()  # as in a training run on a CPU
    measures = {
        name: partial(_run, config, name, iterations) for name in (CLASSROOM, *inspection.members)
    }
    seconds = interleaved_medians(measures, rounds, warmup=False)
    size = config.train_dataloader.batch_size
    return {
        name: RunSpeed(value / iterations, size * iterations / value)
        for name, value in seconds.items()
    }


def format_runs(speeds: dict[str, RunSpeed]) -> str:
    """Format the speeds as a table with the ratio of the classroom to the sum of its members."""
    table = PrettyTable(['run', 'ms/batch', 'images/s'], align='r')
    table.align['run'] = 'l'
    classroom = speeds[CLASSROOM].batch_seconds
    members = {name: speed for name, speed in speeds.items() if name != CLASSROOM}
    total = sum(speed.batch_seconds for speed in members.values())
    images = classroom * speeds[CLASSROOM].images / total
    for name, speed in {
        **members,
        'sum of the members': RunSpeed(total, images),
        CLASSROOM: speeds[CLASSROOM],
    }.items():
        table.add_row([name, f'{1000 * speed.batch_seconds:.1f}', f'{speed.images:.1f}'])
    table.add_row(['ratio', f'{classroom / total:.3f}', f'{total / classroom:.3f}'])
    return table.get_string()


class _FrozenModel(BaseModel):
    """Frozen member whose training step is only a forward pass."""

    def __init__(self, task: Task, member: nn.Module) -> None:
        super().__init__(member.data_preprocessor)
        self.task = task
        self.member = member

    def train(self, mode: bool = True) -> _FrozenModel:
        return super().train(False)

    def forward(self, inputs: Tensor) -> Tensor | None:
        return self.task.logits(self.member, inputs)

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        with torch.inference_mode(), optim_wrapper.optim_context(self):
            self(self.data_preprocessor(data)['inputs'])
        return dict(loss=torch.zeros(()))


class _ClockHook(Hook):
    """Measure the seconds of all iterations after the warm-up."""

    priority = 'LOWEST'
    seconds = 0.0

    def after_train_iter(self, runner: Runner, batch_idx: int, *_: Any, **__: Any) -> None:
        if batch_idx + 1 == WARM_UP:
            self.seconds = -_now()

    def after_train(self, _: Runner) -> None:
        self.seconds += _now()


def _now() -> float:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def _run(config: Config, name: str, iterations: int) -> float:
    """Train once, and return the seconds of the measured iterations."""
    clock = _ClockHook()
    optim_wrapper, hooks = dict(config.optim_wrapper), [clock]
    default_hooks = dict(checkpoint=None)
    if name == CLASSROOM:
        hooks = [*config.get('custom_hooks', ()), clock]
        default_hooks = dict(config.get('default_hooks', {}), checkpoint=None)
    else:  # only the classroom has a discriminator
        for key in ('constructor', 'discriminator_optimizer'):
            optim_wrapper.pop(key, None)
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(
            model=_model(config, name),
            work_dir=folder,
            train_dataloader=dict(
                copy.deepcopy(config.train_dataloader), sampler=dict(type=InfiniteSampler)
            ),
            train_cfg=dict(type=IterBasedTrainLoop, max_iters=WARM_UP + iterations),
            optim_wrapper=optim_wrapper,
            default_hooks=default_hooks,
            custom_hooks=hooks,
            env_cfg=copy.deepcopy(config.get('env_cfg', dict(dist_cfg=dict(backend='nccl')))),
            randomness=dict(seed=0),
            log_level='ERROR',
            default_scope=config.get('default_scope'),
            experiment_name=uuid.uuid4().hex,
        )
        runner.train()
        loop: Any = runner.train_loop
        loop.dataloader_iterator = loop.dataloader._iterator = None  # stop the workers
    del runner, loop
    gc.collect()
    return clock.seconds


def _model(config: Config, name: str) -> BaseModel:
    inspection = inspect_config(config)
    distiller: Any = inspection.distiller
    if name == CLASSROOM:
        distiller.check_frozen_weights = lambda: None  # weights do not affect the speed
        return distiller
    member: Any = inspection.members[name]
    member.data_preprocessor = distiller.preprocessor_of(name)
    return _FrozenModel(inspection.task, member) if name in distiller.frozen_names else member
