from types import SimpleNamespace

import pytest
from mmengine.dataset import DefaultSampler, InfiniteSampler
from torch.utils.data import DataLoader, SubsetRandomSampler, WeightedRandomSampler

from mmkdml.engine.checks import EvaluatedImagesHook, evaluated_images

IMAGES = range(10)


def check(part='test', **settings):
    loader = DataLoader(IMAGES, **{'batch_size': 4, **settings})
    getattr(EvaluatedImagesHook(), f'before_{part}')(
        SimpleNamespace(**{f'{part}_dataloader': loader})
    )


def test_validation_loader_is_checked_before_training():
    loader = DataLoader(IMAGES, batch_size=4, drop_last=True)
    EvaluatedImagesHook().before_train(SimpleNamespace(val_loop=None))
    with pytest.raises(ValueError, match=r'val_dataloader\.drop_last'):
        EvaluatedImagesHook().before_train(SimpleNamespace(val_loop=True, val_dataloader=loader))


@pytest.mark.parametrize('part', ['val', 'test'])
def test_drop_last_that_skips_images_raises(part):
    check(part)
    with pytest.raises(ValueError, match=rf'{part}_dataloader\.drop_last.*2 of 10 images'):
        check(part, drop_last=True)


def test_drop_last_without_a_partial_batch_passes():
    check(batch_size=5, drop_last=True)


def test_any_order_of_all_images_passes():
    check(sampler=DefaultSampler(IMAGES, shuffle=False))
    check(sampler=DefaultSampler(IMAGES, shuffle=True))
    check(shuffle=True)


@pytest.mark.parametrize(
    ('sampler', 'message'),
    [
        (InfiniteSampler(IMAGES), 'a sampler that ends, got InfiniteSampler'),
        (SubsetRandomSampler(range(7)), 'each of 10 images once, got 7'),
        (WeightedRandomSampler([1.0] * 10, 25), 'each of 10 images once, got 25'),
    ],
)
def test_sampler_that_skips_or_repeats_images_raises(sampler, message):
    with pytest.raises(ValueError, match=rf'test_dataloader\.sampler: expected {message}'):
        check(sampler=sampler)


@pytest.mark.parametrize('shares', [(3, 4), (4, 4)])
def test_each_process_may_have_its_share_of_the_images(monkeypatch, shares):
    monkeypatch.setattr(evaluated_images, 'get_world_size', lambda: 3)
    for share in shares:
        check(sampler=SubsetRandomSampler(range(share)))
    with pytest.raises(ValueError, match='got 10 samples per process in 3'):
        check(sampler=SubsetRandomSampler(IMAGES))
