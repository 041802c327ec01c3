"""Random numbers that depend on where a run is, not on how it came there."""

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

# What is drawn for
EPOCH, STEP, SAMPLE = range(3)


def seed_all(seed: int, *place: int) -> None:
    """Seeds Python, NumPy and torch, on all devices in use.

    Args:
        seed: Of the run, at least 0.
        place: Numbers, at least 0; other ones give other streams.
    """
    state = np.random.SeedSequence(seed, spawn_key=place).generate_state(4)
    random.seed(state.tobytes())
    np.random.seed(state)
    number = int.from_bytes(state[:2].tobytes(), 'little')
    # torch.manual_seed takes a quarter of a millisecond to ask for devices that are not there.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # never in a worker
        torch.cuda.manual_seed_all(number)


class SeededBatches:
    """The batches of a data loader, each sample seeded by its index and the iteration it is for.

    What a sample looks like after random augmentation depends on nothing else: not on the worker
    that loads it, nor on what was loaded before. Batches that are passed over are not loaded.
    Settings, data set and sampler are the data loader's own, which stays as it is.

    Args:
        loader: With a batch sampler, whose sampler has a random generator of its own or is seeded
            at the start, as those of mmengine and torch.
        seed: Of the run.
        augmentations_per_image: None: a new one in each iteration. A number: so many, which come in
            turn, one in each pass over the data; at least 1.
    """

    def __init__(
        self, loader: DataLoader, seed: int, augmentations_per_image: int | None = None
    ) -> None:
        self._batches = _NumberedBatches(loader.batch_sampler, augmentations_per_image)
        self._loader = copy.copy(loader)
        # A loader refuses to have single ones of these set; here they fit together.
        vars(self._loader).update(
            dataset=_SeededDataset(loader.dataset, seed), batch_sampler=self._batches
        )
        shield_workers(watch_workers(self._loader))

    def start(self, iteration: int, done: int) -> Iterator[Any]:
        """Iterates what is left of an epoch.

        Args:
            iteration: Of the epoch's first batch.
            done: How many batches to pass over.
        """
        self._batches.iteration, self._batches.done = iteration, done
        batches = iter(self._loader)
        disable_sigchld_handler()
        return batches


class _NumberedBatches:
    def __init__(self, batches: Any, augmentations: int | None) -> None:
        self.batches: Any = batches
        self.augmentations = augmentations
        self.iteration = self.done = 0

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        numbered = enumerate(self.batches, self.iteration)
        for iteration, batch in itertools.islice(numbered, self.done, None):
            number = iteration
            if self.augmentations is not None:
                number = iteration // len(self.batches) % self.augmentations
            yield [(number, index) for index in batch]


class _SeededDataset:
    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, place: tuple[int, int]) -> Any:
        seed_all(self.seed, SAMPLE, *place)
        return self.dataset[place[1]]
