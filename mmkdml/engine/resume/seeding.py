"""Random numbers that depend only on the position in a run."""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from mmkdml.engine.resume.signals import disable_sigchld_handler, shield_workers
from mmkdml.engine.workers import watch_workers

# Separate random streams.
EPOCH, STEP, SAMPLE = range(3)


def seed_all(seed: int, *spawn_key: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch on all devices in use.

    Args:
        seed: Seed of the run, at least 0.
        *spawn_key: Integers, at least 0. Different keys give independent random streams.
    """
    state = np.random.SeedSequence(seed, spawn_key=spawn_key).generate_state(4)
    random.seed(state.tobytes())
    np.random.seed(state)
    number = int.from_bytes(state[:2].tobytes(), 'little')
    # torch.manual_seed spends 0.25 ms on devices that are not available.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # Never in a worker.
        torch.cuda.manual_seed_all(number)


class SeededBatches:
    """Batches of a data loader with each sample seeded by its index and iteration.

    The random augmentation of a sample depends on nothing else, such as the worker that loads it or
    the samples loaded before. Skipped batches are not loaded. The data loader itself is not
    changed.

    Args:
        loader: Data loader with a batch sampler, whose sampler has its own random generator or is
            seeded when an epoch starts, as those of mmengine and PyTorch.
        seed: Seed of the run.
        augmentations_per_image: Number of random augmentations of each image, at least 1; they
            alternate from epoch to epoch. Default: a new augmentation in every iteration.
    """

    def __init__(
        self, loader: DataLoader, seed: int, augmentations_per_image: int | None = None
    ) -> None:
        self._batches = _NumberedBatches(loader.batch_sampler, augmentations_per_image)
        self._loader = copy.copy(loader)
        # DataLoader forbids setting these attributes individually.
        vars(self._loader).update(
            dataset=_SeededDataset(loader.dataset, seed), batch_sampler=self._batches
        )
        shield_workers(watch_workers(self._loader))

    def start(self, first_iteration: int, skip: int) -> Iterator[Any]:
        """Iterate over the remaining batches of an epoch.

        Args:
            first_iteration: Iteration of the epoch's first batch.
            skip: Number of batches to skip.
        """
        self._batches.first_iteration, self._batches.skip = first_iteration, skip
        batches = iter(self._loader)
        disable_sigchld_handler()
        return batches


class _NumberedBatches:
    def __init__(self, batches: Any, augmentations: int | None) -> None:
        self.batches: Any = batches
        self.augmentations = augmentations
        self.first_iteration = self.skip = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        numbered = enumerate(self.batches, self.first_iteration)
        for iteration, batch in itertools.islice(numbered, self.skip, None):
            key = iteration
            if self.augmentations is not None:
                key = iteration // len(self.batches) % self.augmentations
            yield [(key, index) for index in batch]


class _SeededDataset:
    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, key_and_index: tuple[int, int]) -> Any:
        seed_all(self.seed, SAMPLE, *key_and_index)
        return self.dataset[key_and_index[1]]
