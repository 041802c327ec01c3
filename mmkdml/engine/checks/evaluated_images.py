"""Check that a validation or test evaluates each image of its data set once."""

from __future__ import annotations

from typing import Any

from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmkdml.engine.distributed import raise_in_all_processes
from mmkdml.registry import HOOKS


@HOOKS.register_module()
class EvaluatedImagesHook(Hook):
    """Check that data loaders for evaluation yield each image once.

    With ``drop_last=True``, the last images would silently be missing from the metrics, and an
    ``InfiniteSampler`` would never end. Images that a sampler repeats to give all processes the
    same number are allowed, because the metrics drop them.

    Raises:
        ValueError: If a loader skips or repeats images, or never ends.
    """

    @raise_in_all_processes()
    def before_train(self, runner: Runner) -> None:
        """Check the validation loader, if the training validates."""
        if runner.val_loop is not None:
            _check('val', runner.val_dataloader)

    @raise_in_all_processes()
    def before_val(self, runner: Runner) -> None:
        """Check the validation loader."""
        _check('val', runner.val_dataloader)

    @raise_in_all_processes()
    def before_test(self, runner: Runner) -> None:
        """Check the test loader."""
        _check('test', runner.test_dataloader)


def _check(part: str, loader: DataLoader) -> None:
    batches: Any = loader.batch_sampler
    sampler: Any = getattr(batches, 'sampler', loader.sampler)
    key = f'{part}_dataloader'
    if isinstance(sampler, InfiniteSampler):
        raise ValueError(
            f'{key}.sampler: expected a sampler that ends, got {type(sampler).__name__}. Use '
            'dict(type=DefaultSampler, shuffle=False)'
        )
    if not (hasattr(sampler, '__len__') and hasattr(loader.dataset, '__len__')):
        return
    images, processes = len(loader.dataset), get_world_size()
    drawn = len(sampler)
    size = getattr(batches, 'batch_size', None)
    if size and getattr(batches, 'drop_last', False) and drawn % size:
        raise ValueError(
            f'{key}.drop_last: expected False, got True, which leaves {drawn % size} of {images} '
            'images out of the metrics. Remove it'
        )
    # Per process; with round_up=False the last processes may have one fewer.
    if not images // processes <= drawn <= -(-images // processes):
        raise ValueError(
            f'{key}.sampler: expected each of {images} images once, got {drawn} samples per '
            f'process in {processes} process(es) from {type(sampler).__name__}. Use '
            'dict(type=DefaultSampler, shuffle=False)'
        )
