import re

import pytest
from mmengine.config import Config

from mmkdml.apis import make_runner
from mmkdml.apis.run.numbers import check_numbers


def config(key, value):
    settings = Config(dict(train_cfg=dict(max_epochs=3), val_cfg=dict()))
    settings.merge_from_dict({key: value})
    return settings


@pytest.mark.parametrize(
    ('key', 'good', 'bad'),
    [
        ('randomness.seed', [None, 0, 2**32 - 1], [-1, 2**32, 1.5, '3', True]),
        ('train_cfg.max_epochs', [1], [0, -1, 2.0]),
        ('train_cfg.max_iters', [1], [0]),
        ('train_cfg.val_interval', [1, 9], [0, 1.5]),
        ('train_cfg.val_begin', [0, 3], [-1, 4]),
        ('optim_wrapper.accumulative_counts', [1, 4], [0]),
        ('optim_wrapper.optimizer.lr', [0, 1e-3], [-1, 'fast', float('nan'), float('inf')]),
        ('optim_wrapper.optimizer.weight_decay', [0.0], [-0.1]),
        ('train_dataloader.batch_size', [1], [0, -2, 2.5]),
        ('val_dataloader.num_workers', [0, 4], [-1]),
        ('test_dataloader.timeout', [0, 7.5], [-1, 'long']),
        ('val_dataloader', [None, dict(persistent_workers=True, num_workers=1)], []),
    ],
)
def test_invalid_numbers_raise(key, good, bad):
    for value in good:
        check_numbers(config(key, value))
    for value in bad:
        with pytest.raises(ValueError, match=rf'^{re.escape(key)}: .*got {re.escape(repr(value))}'):
            check_numbers(config(key, value))


@pytest.mark.parametrize('workers', [{}, dict(num_workers=0)])
def test_persistent_workers_without_workers_raise(workers):
    loader = dict(persistent_workers=True, **workers)
    with pytest.raises(ValueError, match=r'^val_dataloader\.persistent_workers: .*num_workers='):
        check_numbers(config('val_dataloader', loader))


def test_numbers_are_checked_before_the_runner_is_built(tmp_path):
    with pytest.raises(ValueError, match=r'randomness\.seed: .*got -1'):
        make_runner(Config(dict(work_dir=str(tmp_path / 'run'), randomness=dict(seed=-1))))
    assert not (tmp_path / 'run').exists()
