"""Cost of the metrics of an evaluation compared with the networks."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from prettytable import PrettyTable

from mmkdml.engine import keep_freed_memory
from mmkdml.inspection.config import inspect_config
from mmkdml.models.input_channels import input_channels
from mmkdml.profiling import interleaved_medians

FORWARDS = 'forward passes'
#: Evaluators of a config by split.
SPLITS = {'test': 'test_evaluator', 'validation': 'val_evaluator'}


@dataclass(frozen=True)
class EvaluationCost:
    """Cost of one part of an evaluation.

    Attributes:
        seconds: CPU seconds per batch of all threads, median over the rounds.
        ratio: The same relative to the forward passes.
    """

    seconds: float
    ratio: float


def measure_evaluation(
    config: Config, batch_size: int, rounds: int, original_size: Sequence[int] | None = None
) -> dict[str, EvaluationCost]:
    """Measure the forward passes of all members and the metrics of a config, on random images.

    The forward passes include preprocessing, the ensemble, and masks at the original size. An
    individual metric also computes the values that it would share with others, so all metrics
    together cost less than their sum. Computations after the last batch are not included.

    Args:
        config: Config of a classroom or baseline with its evaluators; no data set is needed.
        batch_size, rounds: See :func:`benchmarks.steps.measure_steps`.
        original_size: (H, W) at which masks are scored. Default: the networks' input size.

    Returns:
        Costs by name: the forward passes, then the metrics of each split, together and
        individually.

    Raises:
        TypeError: If the model is neither a classroom nor a network of a supported task.
        ValueError: If the model is invalid, or a number is below 1.
    """
    if min(batch_size, rounds) < 1:
        raise ValueError(
            f'Invalid batch_size or rounds: expected at least 1, got {batch_size} and {rounds}'
        )
    keep_freed_memory()
    inspection = inspect_config(config)
    forward = forward_of(inspection, batch_size, original_size or inspection.input_size)
    samples = forward()
    measures = {FORWARDS: partial(_cpu_seconds, forward)}
    for name, metrics in metrics_of(config):
        evaluator = Evaluator(metrics)
        evaluator.dataset_meta = dict(classes=_class_names(inspection))
        measures[name] = partial(_cpu_seconds_of_metrics, evaluator, samples)
    seconds = interleaved_medians(measures, rounds)
    return {
        name: EvaluationCost(value, value / seconds[FORWARDS]) for name, value in seconds.items()
    }


def format_evaluation(costs: dict[str, EvaluationCost]) -> str:
    """Format the costs as a table."""
    table = PrettyTable(['part', 'ratio', 'ms/batch'], align='r')
    table.align['part'] = 'l'
    for name, cost in costs.items():
        table.add_row([name, f'{cost.ratio:.3f}', f'{1000 * cost.seconds:.1f}'])
    return table.get_string()


def forward_of(inspection: Any, batch_size: int, original_size: Sequence[int]) -> Any:
    """Build a function that predicts a batch of random images, and returns the samples."""
    model = inspection.distiller or next(iter(inspection.members.values()))
    channels = input_channels(next(iter(inspection.members.values())))
    generator = torch.Generator().manual_seed(0)
    shape = (channels, *inspection.input_size)
    images = [
        torch.randint(256, shape, dtype=torch.uint8, generator=generator) for _ in range(batch_size)
    ]
    samples = inspection.task.dummy_samples(batch_size, original_size)
    for index, sample in enumerate(samples):
        sample.set_metainfo(dict(id=f'image{index}', img_id=index, group=f'group{index % 4}'))
    model.eval()

    def forward() -> Any:
        with torch.no_grad():
            return model.test_step(dict(inputs=images, data_samples=samples))

    return forward


def metrics_of(config: Config) -> Iterator[tuple[str, list[dict]]]:
    """Yield names and configs of the metrics of each split, together and individually."""
    for split, key in SPLITS.items():
        if not config.get(key):
            continue
        metrics = config[key] if isinstance(config[key], (list, tuple)) else [config[key]]
        yield split, [copy.deepcopy(one) for one in metrics]
        if len(metrics) > 1:
            for one in metrics:
                yield f'{split}: {_name(one)}', [copy.deepcopy(one)]


def _name(metric: Any) -> str:
    inner = metric.get('metric')
    own = getattr(metric['type'], '__name__', metric['type'])
    if inner is None:
        return own
    inner = inner if isinstance(inner, (list, tuple)) else [inner]
    return f'{own} ({", ".join(map(_name, inner))})'


def _class_names(inspection: Any) -> tuple[str, ...]:
    member = next(iter(inspection.members.values()))
    number = max(2, inspection.task.num_classes(member))
    return tuple(f'class {label}' for label in range(number))


def _cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def _cpu_seconds_of_metrics(evaluator: Evaluator, samples: Sequence[Any]) -> float:
    own = copy.deepcopy(samples)  # metrics share what they computed from the same samples
    return _cpu_seconds(partial(evaluator.process, own, None))
