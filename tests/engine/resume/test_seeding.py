import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmkdml.engine.resume.seeding import SeededBatches, seed_all


def drawn(*seed_and_key):
    seed_all(*seed_and_key)
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_spawn_keys_give_independent_streams():
    # Trailing zeros and the order matter.
    keys = [(0,), (0, 0), (0, 1), (1, 0), (1,), (0, 1, 0), (0, 0, 1), (0, 2**40, 1), (5, 0, 1)]
    streams = [drawn(*key) for key in keys]
    assert [drawn(*key) for key in keys] == streams
    for one, other in itertools.combinations(streams, 2):
        assert not {*one} & {*other}
    assert len({*itertools.chain(*streams)}) == 3 * len(keys)


def test_negative_seed_raises():
    with pytest.raises(ValueError, match='non-negative'):
        seed_all(-1, 0)


class Rolls:
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.tensor([index, random.randrange(2**30), np.random.randint(2**30)])


def test_samples_depend_only_on_iteration_and_index():
    loader = DataLoader(Rolls(), batch_size=2)
    dataset, batch_sampler = loader.dataset, loader.batch_sampler
    batches = SeededBatches(loader, 7)
    first = [*batches.start(10, 0)]
    rest = [*SeededBatches(loader, 7).start(10, 2)]
    assert [batch[:, 0].tolist() for batch in first] == [[0, 1], [2, 3], [4]]
    assert len(rest) == 1
    assert torch.equal(rest[0], first[2])
    later, other = [*batches.start(13, 0)], [*SeededBatches(loader, 8).start(10, 0)]
    rolls = torch.cat([*first, *later, *other])[:, 1:].flatten().tolist()
    assert len({*rolls}) == len(rolls)
    # Another batch size does not change the samples of an iteration.
    wide = [*SeededBatches(DataLoader(Rolls(), batch_size=3), 7).start(10, 0)]
    assert torch.equal(wide[0][:2], first[0])
    assert (loader.dataset, loader.batch_sampler) == (dataset, batch_sampler)
    assert loader.worker_init_fn is None


def test_augmentations_alternate_between_epochs():
    loader = DataLoader(Rolls(), batch_size=2, shuffle=True)
    batches = SeededBatches(loader, 7, augmentations_per_image=2)

    def augmented(iteration, skip=0):
        rows = torch.cat([*batches.start(iteration, skip)]).tolist()
        return {index: tuple(rolls) for index, *rolls in rows}

    first, second, third = (augmented(epoch * 3) for epoch in range(3))  # Each in its own order.
    assert first == third
    assert not {*first.values()} & {*second.values()}
    rest = augmented(3, skip=2)
    assert len(rest) == 1
    assert rest.items() <= second.items()
    one = SeededBatches(loader, 7, augmentations_per_image=1)
    assert sorted(torch.cat([*one.start(3, 0)])[:, 1].tolist()) == sorted(
        rolls[0] for rolls in first.values()
    )
