"""Throughput of a config's training data loader."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from prettytable import PrettyTable

from benchmarks.timing import median_seconds
from mmkdml.datasets.base import set_image_cache
from mmkdml.engine.resume.seeding import SeededBatches
from mmkdml.inspection.config import use_default_scope


@dataclass(frozen=True)
class LoadingSpeed:
    """Throughput of a data loader when the training step takes no time.

    Attributes:
        workers: Number of worker processes; 0 loads in the training process.
        cached: Whether decoded images come from the cache.
        images: Images per second, median over the rounds.
        batch_seconds: Seconds per batch. Longer training steps do not wait for the loader.
    """

    workers: int
    cached: bool
    images: float
    batch_seconds: float


def measure_loading(
    config: Config, workers: Sequence[int], batches: int, rounds: int
) -> dict[str, LoadingSpeed]:
    """Measure the training data loader from image files and from a cache of decoded images.

    Every epoch has the same random images, augmented as in training. The loaders are interleaved;
    an unmeasured first epoch starts the workers and fills the file cache of the operating system.

    Args:
        config: Config with a data set of mmkdml in its ``train_dataloader``.
        workers: Numbers of workers to measure, each >= 0.
        batches: Batches per epoch, >= 1.
        rounds: Measured epochs of each loader, >= 1.

    Returns:
        Throughputs by name.

    Raises:
        TypeError: If the data set is not one of mmkdml's.
        ValueError: If a number is too small, or the data set has fewer batches.
    """
    if min(workers, default=-1) < 0 or batches < 1:
        raise ValueError(
            'Invalid workers or batches: expected at least 0 workers and 1 batch, got '
            f'{list(workers)} and {batches}'
        )
    use_default_scope(config)
    set_multi_processing(**config.get('env_cfg', {}).get('mp_cfg', {}))
    settings = copy.deepcopy(config.train_dataloader)
    settings.dataset.pop('image_cache', None)
    images = batches * settings.batch_size
    available = len(DATASETS.build(settings.dataset))
    if images > available:
        raise ValueError(
            f'Invalid batches: expected at most {available // settings.batch_size} batches of '
            f'{settings.batch_size} for {available} training images, got {batches}'
        )
    chosen = np.random.default_rng(0).choice(available, images, replace=False)
    settings.dataset.indices = chosen.tolist()
    with tempfile.TemporaryDirectory() as folder:
        set_image_cache(settings.dataset, folder)
        datasets = {
            False: DATASETS.build(dict(settings.dataset, image_cache=None)),
            True: DATASETS.build(settings.dataset),
        }
        kinds = {
            f'{number} workers, {"cache" if cached else "files"}': (number, cached)
            for number in workers
            for cached in datasets
        }
        steps = {
            name: partial(_epoch, _loader(settings, datasets[cached], number))
            for name, (number, cached) in kinds.items()
        }
        seconds = median_seconds(steps, rounds)
    return {
        name: LoadingSpeed(*kinds[name], images / taken, taken / batches)
        for name, taken in seconds.items()
    }


def format_loading(speeds: dict[str, LoadingSpeed], step_seconds: float | None = None) -> str:
    """Format the throughputs as a table.

    Args:
        speeds: Result of :func:`measure_loading`.
        step_seconds: Duration of a training step. If set, loaders that slow it down are marked.
    """
    table = PrettyTable(['workers', 'images from', 'images/s', 'ms/batch'], align='r')
    for speed in speeds.values():
        source = 'cache' if speed.cached else 'files'
        values = [f'{speed.images:.0f}', f'{1000 * speed.batch_seconds:.1f}']
        table.add_row([speed.workers, source, *values])
    if step_seconds is not None:
        limits = [speed.batch_seconds > step_seconds for speed in speeds.values()]
        table.add_column(
            f'limits steps of {step_seconds:g} s', ['yes' if x else 'no' for x in limits], 'r'
        )
    return table.get_string()


def _loader(settings: Any, dataset: Any, workers: int) -> SeededBatches:
    changes = dict(dataset=dataset, num_workers=workers, persistent_workers=workers > 0)
    return SeededBatches(Runner.build_dataloader({**settings, **changes}, seed=0), seed=0)


def _epoch(loader: SeededBatches) -> None:
    for _ in loader.start(0, 0):
        pass
