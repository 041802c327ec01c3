import itertools
import random

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmkdml.engine.resume.seeding import SeededBatches, seed_all


def drawn(*place):
    seed_all(*place)
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_place_has_its_own_stream():
    # Zeros behind are places of their own, and so is the order.
    places = [(0,), (0, 0), (0, 1), (1, 0), (1,), (0, 1, 0), (0, 0, 1), (0, 2**40, 1), (5, 0, 1)]
    streams = [drawn(*place) for place in places]
    assert [drawn(*place) for place in places] == streams
    for one, other in itertools.combinations(streams, 2):
        assert not {*one} & {*other}
    assert len({*itertools.chain(*streams)}) == 3 * len(places)


def test_a_negative_seed_is_refused():
    with pytest.raises(ValueError, match='non-negative'):
        seed_all(-1, 0)


class Rolls:
    def __len__(self):
        return 5

    def __getitem__(self, index):
        return torch.tensor([index, random.randrange(2**30), np.random.randint(2**30)])


def test_batches_depend_on_their_iteration_and_index_alone():
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
    # One sample more in a batch: the others stay as they are.
    wide = [*SeededBatches(DataLoader(Rolls(), batch_size=3), 7).start(10, 0)]
    assert torch.equal(wide[0][:2], first[0])
    # The loader is as it was.
    assert (loader.dataset, loader.batch_sampler) == (dataset, batch_sampler)
    assert loader.worker_init_fn is None


def test_a_few_looks_come_in_turn():
    loader = DataLoader(Rolls(), batch_size=2, shuffle=True)
    batches = SeededBatches(loader, 7, augmentations_per_image=2)

    def looks(iteration, done=0):
        rows = torch.cat([*batches.start(iteration, done)]).tolist()
        return {index: tuple(rolls) for index, *rolls in rows}

    first, second, third = looks(0), looks(3), looks(6)  # epochs of 3 batches, each in its order
    assert first == third
    assert not {*first.values()} & {*second.values()}
    rest = looks(3, done=2)
    assert len(rest) == 1
    assert rest.items() <= second.items()
    one = SeededBatches(loader, 7, augmentations_per_image=1)
    assert sorted(torch.cat([*one.start(3, 0)])[:, 1].tolist()) == sorted(
        rolls[0] for rolls in first.values()
    )
