"""Throughput of a config's training data loader, and of decoders on the same files."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from mmcv.transforms import LoadAnnotations, LoadImageFromFile
from mmengine.config import Config
from mmengine.registry import DATASETS
from mmengine.runner import Runner
from mmengine.utils.dl_utils import set_multi_processing
from PIL import Image
from prettytable import PrettyTable

from benchmarks.timing import median_seconds
from mmkdml.datasets import LoadClassMask
from mmkdml.datasets.base import set_image_cache
from mmkdml.datasets.volumes.store import is_slice
from mmkdml.engine import keep_freed_memory
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


@dataclass(frozen=True)
class ReadingSpeed:
    """Speed of a part of the training pipeline, or of a decoder on the same files.

    Attributes:
        kind: ``'ours'`` (pipeline, reading), ``'transform'`` or ``'decoder'``.
        seconds: CPU seconds per image in one thread, median over the rounds.
    """

    kind: str
    seconds: float


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
    if min(workers, default=-1) < 0:
        raise ValueError(f'Invalid workers: expected at least 0, got {list(workers)}')
    settings = _random_images(config, batches)
    images = batches * settings.batch_size
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


def measure_reading(config: Config, batches: int, rounds: int) -> dict[str, ReadingSpeed]:
    """Measure each transform of the training pipeline, and plain decoders on the same files.

    Images are random and augmented as in training. They are prepared in this process by one thread;
    the pipeline and the decoders are interleaved, and the files are cached by the operating system.
    Decoders read each image as RGB and each mask as gray values, without any check. Those that do
    not support all formats of the data set, or are not installed, are left out.

    Args:
        config: Config with a data set in its ``train_dataloader``.
        batches: Batches per round, >= 1.
        rounds: Measured rounds, >= 1, after one that warms up.

    Returns:
        Speeds by name: the whole pipeline, its loading transforms, each of its transforms, and the
        decoders.

    Raises:
        ValueError: If a number is too small, or the data set has fewer batches.
    """
    if rounds < 1:
        raise ValueError(f'Invalid rounds: expected at least 1, got {rounds}')
    keep_freed_memory()
    dataset = DATASETS.build(_random_images(config, batches).dataset)
    samples = [dataset.get_data_info(index) for index in range(len(dataset))]
    files = [(one['img_path'], one.get('seg_map_path')) for one in samples]
    decoders = {name: one for name, one in _DECODERS.items() if _supports(one, files[0])}
    found: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        seconds = _pipeline_seconds(dataset)
        for name, decode in decoders.items():
            start = time.process_time()
            _decode_all(decode, files)
            seconds[name] = time.process_time() - start
        for name, value in seconds.items():
            found.setdefault(name, []).extend([value] if turn else [])
    kinds = {**dict.fromkeys((_PIPELINE, _READING), 'ours'), **dict.fromkeys(decoders, 'decoder')}
    return {
        name: ReadingSpeed(kinds.get(name, 'transform'), statistics.median(values) / len(files))
        for name, values in found.items()
    }


def format_reading(speeds: dict[str, ReadingSpeed]) -> str:
    """Format the speeds as a table, with ratios of time to our reading.

    Args:
        speeds: Result of :func:`measure_reading`.
    """
    table = PrettyTable(['', 'time / reading', 'images/s', 'share of the pipeline'], align='r')
    table.align[''] = 'l'
    for name, speed in speeds.items():
        share = speed.seconds / speeds[_PIPELINE].seconds
        ratio = speed.seconds / speeds[_READING].seconds
        table.add_row(
            [
                name,
                f'{ratio:.2f}',
                f'{1 / speed.seconds:.0f}',
                '' if speed.kind == 'decoder' else f'{share:.0%}',
            ]
        )
    return table.get_string()


def _random_images(config: Config, batches: int) -> Any:
    """Return the settings of the training loader, with random images without repetition."""
    if batches < 1:
        raise ValueError(f'Invalid batches: expected at least 1, got {batches}')
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
    return settings


def _loader(settings: Any, dataset: Any, workers: int) -> SeededBatches:
    changes = dict(dataset=dataset, num_workers=workers, persistent_workers=workers > 0)
    return SeededBatches(Runner.build_dataloader({**settings, **changes}, seed=0), seed=0)


def _epoch(loader: SeededBatches) -> None:
    for _ in loader.start(0, 0):
        pass


_PIPELINE, _READING = 'whole pipeline', 'reading'
_LOADERS = (LoadImageFromFile, LoadAnnotations, LoadClassMask)
Decoder = Callable[[str, bool], Any]


def _pipeline_seconds(dataset: Any) -> dict[str, float]:
    """Return CPU seconds of the pipeline, of its loading, and of each transform, for all images."""
    np.random.seed(0)
    seconds = {_PIPELINE: 0.0, _READING: 0.0}
    for index in range(len(dataset)):
        start = time.process_time()
        results = dataset.get_data_info(index)
        for step in dataset.pipeline.transforms:
            before = time.process_time()
            results = step(results)
            own = time.process_time() - before
            seconds[_READING] += own if isinstance(step, _LOADERS) else 0
            name = type(step).__name__
            seconds[name] = seconds.get(name, 0.0) + own
        seconds[_PIPELINE] += time.process_time() - start
    return seconds


def _opencv(path: str, is_mask: bool) -> Any:
    return cv2.imread(path, cv2.IMREAD_GRAYSCALE if is_mask else cv2.IMREAD_COLOR_RGB)


def _pillow(path: str, is_mask: bool) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert('L' if is_mask else 'RGB'))


def _torchvision(path: str, is_mask: bool) -> Any:
    from torchvision.io import ImageReadMode, decode_image

    return decode_image(path, ImageReadMode.GRAY if is_mask else ImageReadMode.RGB)


def _numpy(path: str, is_mask: bool) -> np.ndarray:
    file, _, number = path.rpartition('#')
    return np.array(np.load(file, mmap_mode='r')[int(number)])


_DECODERS: dict[str, Decoder] = {
    'OpenCV': _opencv,
    'Pillow': _pillow,
    'torchvision.io': _torchvision,
    'NumPy, memory-mapped': _numpy,
}


def _supports(decode: Decoder, files: tuple[str, str | None]) -> bool:
    if (decode is _numpy) != is_slice(files[0]):
        return False
    try:
        _decode_all(decode, [files])
    except Exception:  # decoders raise errors of many types
        return False
    return True


def _decode_all(decode: Decoder, files: Iterable[tuple[str, str | None]]) -> None:
    for image, mask in files:
        for path, is_mask in ((image, False), (mask, True)):
            if path is not None and decode(path, is_mask) is None:
                raise ValueError(path)
