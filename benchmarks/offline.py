"""Time saved by caching the outputs of frozen members."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from prettytable import PrettyTable
from torch import Tensor

from benchmarks.steps import dummy_batch, set_base_weights
from benchmarks.timing import median_seconds
from mmkdml.inspection.config import inspect_config
from mmkdml.models.distillers import TeacherCache


@dataclass(frozen=True)
class OfflineCost:
    """Cost of a classroom's training step without and with :class:`~mmkdml.models.TeacherCache`.

    Attributes:
        run: Seconds if the frozen members run without a cache; median over the rounds.
        kept: Seconds if they run and their outputs are cached, as in the first epoch.
        found: Seconds if all outputs are read from the cache, as in later epochs.
        kib_per_image: Size of the cache file per image in KiB, without its index.
        difference: Largest relative difference between the losses of one batch with and without
            the cache, which was filled one image at a time.
    """

    run: float
    kept: float
    found: float
    kib_per_image: float
    difference: float


def measure_offline(
    config: Config, batch_size: int, rounds: int, dtype: str | None = None
) -> OfflineCost:
    """Measure interleaved training steps on dummy batches on the CPU.

    The cache is a file in the system's temporary folder.

    Args:
        config: Config of a classroom with frozen members; their checkpoints are not loaded.
        batch_size, rounds: See :func:`benchmarks.steps.measure_steps`.
        dtype: See :class:`~mmkdml.models.TeacherCache`.

    Raises:
        TypeError: If the config is a baseline or has no frozen member.
        ValueError: If the model is invalid, or a number is below 1.
    """
    inspection = inspect_config(config)
    distiller = inspection.distiller
    if distiller is None or not distiller.frozen_names:
        raise TypeError(
            'Invalid config: expected a classroom with frozen members to cache, '
            'such as one of configs/kd_off'
        )
    images, samples = dummy_batch(inspection, batch_size)
    others = images.clone()
    wrapper = build_optim_wrapper(distiller, config.optim_wrapper)
    set_base_weights(distiller)

    def losses(cache: TeacherCache | None, batch: Tensor) -> dict[str, Any]:
        distiller.teacher_cache = cache
        with wrapper.optim_context(distiller):
            return distiller(batch, samples, mode='loss')

    def train(cache: TeacherCache | None, batch: Tensor) -> None:
        wrapper.update_params(distiller.parse_losses(losses(cache, batch))[0])

    with TemporaryDirectory() as folder:
        cache = TeacherCache(Path(folder) / 'cache.sqlite', disk_usage(folder).free / 2**30, dtype)
        with torch.no_grad():
            distiller.eval().teacher_cache = cache
            with wrapper.optim_context(distiller):
                for image in images.split(1):
                    for name in distiller.frozen_names:
                        distiller.forward_frozen(name, image)
            ran, found = (distiller.parse_losses(losses(x, images))[1] for x in (None, cache))
        distiller.train()
        seconds = median_seconds(
            dict(
                run=lambda: train(None, images),
                kept=lambda: train(cache, others.add_(1e-3)),
                found=lambda: train(cache, images),
            ),
            rounds,
        )
    differences = [
        abs(found[key] - value) / max(abs(value), torch.finfo().tiny)
        for key, value in ran.items()
        if 'loss' in key
    ]
    return OfflineCost(
        **seconds,
        kib_per_image=sum(cache.bytes_per_image.values()) / 1024,
        difference=float(max(differences)),
    )


def format_offline_cost(cost: OfflineCost) -> str:
    """Format the cost as a table, followed by the size of the cache and the difference."""
    table = PrettyTable(['frozen members', 'seconds', 'ratio'], align='r')
    table.align['frozen members'] = 'l'
    for name, seconds in (
        ('run', cost.run),
        ('run and write the cache', cost.kept),
        ('read from the cache', cost.found),
    ):
        table.add_row([name, f'{seconds:.3f}', f'{seconds / cost.run:.3f}'])
    return (
        f'{table}\n{cost.kib_per_image:.2f} KiB on disk per image\n'
        f'largest relative difference of the losses: {cost.difference:.1e}'
    )
