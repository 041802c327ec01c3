"""How many images a second a config's data loader gives."""

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
    """What a data loader gives to a training that takes no time.

    Attributes:
        workers: Its processes; 0 for the training's own.
        cached: Whether images were found decoded.
        images: A second, median over the rounds.
        batch_seconds: For a batch: a step that takes longer does not wait for the loader.
    """

    workers: int
    cached: bool
    images: float
    batch_seconds: float


def measure_loading(
    config: Config, workers: Sequence[int], batches: int, rounds: int
) -> dict[str, LoadingSpeed]:
    """Measures the training's data loader, from image files and from decoded images.

    An epoch is of images drawn at random, the same for all loaders, augmented as in training. The
    loaders take turns; in a first epoch that is not measured their workers start and the system
    reads the files.

    Args:
        config: With a ``train_dataloader`` whose data set is of mmkdml.
        workers: Numbers of workers to try, each >= 0.
        batches: In an epoch, >= 1.
        rounds: Measured epochs of each, >= 1.

    Returns:
        The speeds by name.

    Raises:
        TypeError: If the data set is of another kind.
        ValueError: If a number is too small, or the data set holds no such many batches.
    """
    if min(workers, default=-1) < 0 or batches < 1:
        raise ValueError(
            'Expected numbers of workers of at least 0 and 1 batch or more, got workers '
            f'{list(workers)} and batches {batches}'
        )
    use_default_scope(config)
    set_multi_processing(**config.get('env_cfg', {}).get('mp_cfg', {}))
    settings = copy.deepcopy(config.train_dataloader)
    settings.dataset.pop('image_cache', None)
    images = batches * settings.batch_size
    everything = len(DATASETS.build(settings.dataset))
    if images > everything:
        raise ValueError(
            f'{batches} batches of {settings.batch_size} are more than the {everything} images of '
            'train_dataloader.dataset; ask for fewer batches'
        )
    chosen = np.random.default_rng(0).choice(everything, images, replace=False)
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
    """The speeds as a table.

    Args:
        speeds: As :func:`measure_loading` gives them.
        step_seconds: Of a training step; says which loaders are too slow for it.
    """
    asked = [f'limits steps of {step_seconds:g} s'] if step_seconds is not None else []
    table = PrettyTable(['workers', 'images from', 'images/s', 'ms a batch', *asked], align='r')
    for speed in speeds.values():
        limits = ['yes' if speed.batch_seconds > (step_seconds or 0) else 'no'] * len(asked)
        source = 'cache' if speed.cached else 'files'
        shown = [f'{speed.images:.0f}', f'{1000 * speed.batch_seconds:.1f}']
        table.add_row([speed.workers, source, *shown, *limits])
    return table.get_string()


def _loader(settings: Any, dataset: Any, workers: int) -> SeededBatches:
    own = dict(dataset=dataset, num_workers=workers, persistent_workers=workers > 0)
    return SeededBatches(Runner.build_dataloader({**settings, **own}, seed=0), seed=0)


def _epoch(loader: SeededBatches) -> None:
    for _ in loader.start(0, 0):
        pass
