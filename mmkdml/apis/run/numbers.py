"""Check numbers of a config before anything is built from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

from mmkdml.names import SPLITS

# Lowest and highest value of integers, by dotted key.
_INTEGERS = {
    'randomness.seed': (0, 2**32 - 1),
    'train_cfg.max_epochs': (1, math.inf),
    'train_cfg.max_iters': (1, math.inf),
    'train_cfg.val_begin': (0, math.inf),
    'train_cfg.val_interval': (1, math.inf),
    'optim_wrapper.accumulative_counts': (1, math.inf),
    **{f'{part}_dataloader.batch_size': (1, math.inf) for part in SPLITS},
    **{f'{part}_dataloader.num_workers': (0, math.inf) for part in SPLITS},
}
# Other numbers, which must be finite and not negative.
_NUMBERS = (
    *('optim_wrapper.optimizer.lr', 'optim_wrapper.optimizer.weight_decay'),
    *(f'{part}_dataloader.timeout' for part in SPLITS),
)


def check_numbers(config: Config) -> None:
    """Check seed, lengths and batch sizes of a run, which the frameworks check late or never.

    Raises:
        ValueError: If a number is out of range or of another type, the first validation would come
            after the end of the training, or ``persistent_workers`` is set without workers.
    """
    for key, (low, high) in _INTEGERS.items():
        value = _get(config, key)
        is_int = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (is_int and low <= value <= high):
            limit = f'of {low} or more' if high == math.inf else f'from {low} to {high}'
            raise ValueError(f'{key}: expected an integer {limit}, got {value!r}')
    for key in _NUMBERS:
        value = _get(config, key)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and 0 <= value < math.inf):
            raise ValueError(f'{key}: expected a number of 0 or more, got {value!r}')
    for part in SPLITS:
        loader = config.get(f'{part}_dataloader')
        if _get(loader, 'persistent_workers') and not _get(loader, 'num_workers'):
            raise ValueError(
                f'{part}_dataloader.persistent_workers: expected False without workers, got True '
                f'with num_workers={_get(loader, "num_workers")}. Set it to False, too'
            )
    begin = _get(config, 'train_cfg.val_begin')
    end = _get(config, 'train_cfg.max_epochs') or _get(config, 'train_cfg.max_iters')
    if config.get('val_cfg') is not None and begin and end and begin > end:
        raise ValueError(
            f'train_cfg.val_begin: expected at most {end}, the length of the training, got '
            f'{begin}, so that no validation would choose a best checkpoint'
        )


def _get(config: Any, key: str) -> Any:
    for part in key.split('.'):
        config = config.get(part) if isinstance(config, Mapping | Config) else None
    return config
