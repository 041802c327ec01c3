"""Hook that profiles the parts of training iterations."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from prettytable import PrettyTable
from torch.profiler import ProfilerActivity, profile

from mmkdml.engine.unwrap import unwrap_model, unwrap_optim_wrappers
from mmkdml.files import own_file
from mmkdml.profiling import PREFIX, part
from mmkdml.registry import HOOKS

TRACE = 'trace.json'
OTHER = 'other'
_LOADER = 'enumerate(DataLoader)'  # Name that PyTorch records for its data loaders.


@HOOKS.register_module()
class ProfileHook(Hook):
    """Profile some iterations with ``torch.profiler`` and log the time of each part.

    Parts are waiting for the data loader, preprocessing, the forward pass of each member with its
    supervised loss (or of a single network), transfers, the backward pass and the optimizer;
    ``other`` is everything else, such as logging, other hooks and validation. Profiling slows down
    iterations, especially small operations. On a GPU each part ends with a synchronization, so
    parts do not overlap as they normally would.

    The trace is written to ``trace.json`` in the run's folder, for https://ui.perfetto.dev or
    ``chrome://tracing``, and training continues without the profiler. With several processes, only
    the main process is profiled.

    Args:
        iterations: Number of iterations to profile, at least 1.
        skip: Number of iterations before them, at least 1. The first ones start workers and
            allocate memory.

    Raises:
        ValueError: If an argument is below 1.
    """

    priority = 'LOWEST'  # Last hook of an iteration.

    def __init__(self, iterations: int = 10, skip: int = 5) -> None:
        if iterations < 1 or skip < 1:
            raise ValueError(
                'Invalid iterations or skip: expected at least 1, got '
                f'iterations={iterations} and skip={skip}'
            )
        self.iterations = iterations
        self.skip = skip
        self._done = 0
        self._recording = ExitStack()
        self._profiler: Any = None

    @master_only
    def after_train_iter(self, runner: Runner, *_: Any, **__: Any) -> None:
        """Start after the skipped iterations and stop after the profiled ones."""
        self._done += 1
        if self._done == self.skip:
            self._start(runner)
        elif self._done == self.skip + self.iterations:
            self._stop(runner)

    @master_only
    def after_train(self, runner: Runner) -> None:
        """Stop if the training was shorter, or warn if no iteration was profiled."""
        if self._done <= self.skip:
            self._recording.close()
            runner.logger.warning(
                f'No iteration was profiled: expected more than skip={self.skip} iterations, got '
                f'{self._done}'
            )
        elif self._profiler is not None:
            self._stop(runner)

    def _start(self, runner: Runner) -> None:
        model = unwrap_model(runner.model)
        named: list[tuple[Any, str, str]] = [(model.data_preprocessor, 'forward', 'preprocessing')]
        if not hasattr(model, 'named_members'):  # A classroom names its parts itself.
            named.append((model, 'forward', 'forward'))
        for one in unwrap_optim_wrappers(runner.optim_wrapper):
            named += [(one, 'backward', 'backward')]
            named += [(one, method, 'optimizer') for method in ('step', 'zero_grad')]
        for owner, method, name in named:
            self._recording.enter_context(_named_calls(owner, method, name))
        activities = [ProfilerActivity.CPU]
        activities += [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self._profiler = self._recording.enter_context(profile(activities=activities))
        self._since = time.perf_counter()

    def _stop(self, runner: Runner) -> None:
        seconds, recorded = time.perf_counter() - self._since, self._done - self.skip
        self._recording.close()
        path = own_file(runner.work_dir, TRACE)
        self._profiler.export_chrome_trace(str(path))
        table = part_table(_part_seconds(self._profiler.events()), seconds, recorded)
        runner.logger.info(f'Time of each part in {recorded} iterations (trace: {path})\n{table}')
        self._profiler = None


def part_table(parts: dict[str, float], seconds: float, iterations: int) -> str:
    """Format the parts of iterations as a table.

    Args:
        parts: Total seconds by name.
        seconds: Total seconds of the iterations; the remainder is the row ``other``.
        iterations: Number of iterations.
    """
    table = PrettyTable(['part', 'ms per iteration', 'share'], align='r')
    table.align['part'] = 'l'
    for name, taken in {**parts, OTHER: seconds - sum(parts.values())}.items():
        table.add_row([name, f'{1000 * taken / iterations:.1f}', f'{taken / seconds:.1%}'])
    return table.get_string()


def _part_seconds(events: Sequence[Any]) -> dict[str, float]:
    """Return seconds by name, ordered by first occurrence."""
    parts: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.time_range.start):
        name = 'loader' if event.name.startswith(_LOADER) else event.name.removeprefix(PREFIX)
        if name != event.name:
            parts[name] = parts.get(name, 0) + event.cpu_time_total / 1e6
    return parts


@contextmanager
def _named_calls(owner: Any, method: str, name: str) -> Iterator[None]:
    """Record each call of an object's method as a part."""
    own = vars(owner).get(method)  # Of the instance, for example after compiling.
    call = getattr(owner, method)

    def named(*args: Any, **kwargs: Any) -> Any:
        with part(name):
            return call(*args, **kwargs)

    setattr(owner, method, named)
    try:
        yield
    finally:
        if own is None:
            delattr(owner, method)
        else:
            setattr(owner, method, own)
