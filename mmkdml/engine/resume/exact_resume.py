"""Hook that makes a resumed run end with the same weights as an uninterrupted one."""

from __future__ import annotations

from typing import Any

from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner

from mmkdml.engine.distributed import (
    broadcast_buffers,
    check_equal_epoch_lengths,
    deterministic_allreduce,
    sleep_before_fork,
)
from mmkdml.engine.resume.loops import ResumableIterTrainLoop, ResumableLoop, ResumableTrainLoop
from mmkdml.engine.resume.signals import shield_workers
from mmkdml.engine.unwrap import unwrap_model, unwrap_optim_wrappers
from mmkdml.engine.workers import watch_workers
from mmkdml.registry import HOOKS

# Keys in a checkpoint or its meta.
PROGRESS = 'place'
GRADIENTS = 'gradients'
PATIENCE = 'patience'
IMAGE_SIZES = 'image_sizes'
_LOOPS = {
    EpochBasedTrainLoop: (ResumableTrainLoop, 'max_epochs'),
    IterBasedTrainLoop: (ResumableIterTrainLoop, 'max_iters'),
}


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Make runs stop and resume at any iteration, on a CPU with bitwise identical final weights.

    mmengine's checkpoints contain neither random states nor accumulated gradients, resume only at
    epoch boundaries, and may be saved before the validation of their epoch. With this hook

    - :class:`~mmkdml.engine.ResumableTrainLoop` or :class:`~mmkdml.engine.ResumableIterTrainLoop`
      replaces mmengine's loop. They need no saved random state and handle signals between
      iterations;
    - a checkpoint records the number of finished batches of its epoch. A resumed epoch continues
      with the next batch, without loading the finished ones;
    - accumulated gradients are saved;
    - a checkpoint records whether its epoch was validated. If not, a resumed run validates first,
      so it finds the same best checkpoint;
    - mmengine's ``EarlyStoppingHook`` keeps its count and best score, and mmdet's
      ``BatchSyncRandomResize`` its size of the images;
    - all processes validate with the main process's buffers, which are the saved ones, and sum
      gradients in a fixed order. Epochs of different length raise an error.

    Other loops and data loaders without a batch sampler are not changed.
    """

    priority = 'LOWEST'  # After the hooks that a validation in before_train uses.

    def __init__(self) -> None:
        self._resumed: dict[str, Any] = {}

    def before_run(self, runner: Runner) -> None:
        """Replace the training loop."""
        loop = runner._train_loop  # Unlike the property, this builds no loop for a test.
        resumable, end = _LOOPS.get(type(loop), (None, ''))
        # Tools that only draw schedules pass a data loader without this attribute.
        sampler = getattr(getattr(loop, 'dataloader', None), 'batch_sampler', None)
        if resumable is not None and sampler is not None:
            changes = [*zip(loop.dynamic_milestones, loop.dynamic_intervals, strict=True)]
            runner._train_loop = resumable(
                runner,
                loop.dataloader,
                val_begin=loop.val_begin,
                val_interval=loop.val_interval,
                dynamic_intervals=changes[1:],
                **{end: getattr(loop, end)},
            )
        self._seed = runner.seed

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Read the entries that :meth:`before_save_checkpoint` added."""
        if runner._resume:
            meta = checkpoint.get('meta', {})
            self._resumed = dict(
                meta.get(PROGRESS, {}),
                gradients=checkpoint.get(GRADIENTS, {}),
                patience=meta.get(PATIENCE, []),
                sizes=meta.get(IMAGE_SIZES, []),
            )

    def before_val_epoch(self, runner: Runner) -> None:
        """Make all processes validate the same network."""
        broadcast_buffers(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the position in the epoch and accumulated gradients."""
        loop, meta = runner.train_loop, checkpoint['meta']
        if not isinstance(loop, ResumableLoop):
            return
        # After an epoch, mmengine saves before it increments the epoch.
        done = meta['iter'] - loop.first_iter if meta['epoch'] == loop.epoch else 0
        meta[PROGRESS] = dict(
            done=done,
            batches=len(loop.dataloader),
            validated=loop.validated or runner.message_hub.get_info('loop_stage') == 'val',
        )
        meta[PATIENCE] = [(hook.wait_count, float(hook.best_score)) for hook in _stoppers(runner)]
        meta[IMAGE_SIZES] = [one._input_size for one in _resizes(runner)]
        if 'optimizer' in checkpoint and not _has_stepped(runner.optim_wrapper):
            checkpoint[GRADIENTS] = {
                name: parameter.grad.cpu()
                for name, parameter in unwrap_model(runner.model).named_parameters()
                if parameter.grad is not None
            }

    def before_train(self, runner: Runner) -> None:
        """Restore the position in the epoch, and run a validation that is due."""
        loop = runner.train_loop
        if not isinstance(loop, ResumableLoop):
            return
        check_equal_epoch_lengths(loop.dataloader)
        deterministic_allreduce(runner.model)
        sleep_before_fork()
        patience = self._resumed.get('patience', [])
        for hook, (count, score) in zip(_stoppers(runner), patience, strict=False):
            hook.wait_count, hook.best_score = count, score
        for augment, size in zip(_resizes(runner), self._resumed.get('sizes', []), strict=False):
            augment._input_size = size
        done, batches = self._resumed.get('done', 0), self._resumed.get('batches')
        if done and batches != len(loop.dataloader):
            runner.logger.warning(
                f'The interrupted epoch restarts: expected {batches} batches as before, got '
                f'{len(loop.dataloader)}. Use the same batch size, data and number of processes '
                'for an exact resume'
            )
            done = 0
        loop.first_iter = loop.iter - done
        loop.validated = self._resumed.get('validated', False)
        gradients = self._resumed.pop('gradients', {})
        for name, parameter in unwrap_model(runner.model).named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter)
        sampler: Any = loop.dataloader.sampler
        if getattr(sampler, 'seed', None) == self._seed:
            sampler.seed = runner.seed  # The seed of the checkpoint may differ.
        if runner.val_loop is not None:
            if runner.val_dataloader.num_workers:
                shield_workers(watch_workers(runner.val_dataloader))
            loop.validate_resumed()


def _stoppers(runner: Runner) -> list[EarlyStoppingHook]:
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def _resizes(runner: Runner) -> list[Any]:
    """Return the augmentations that keep a size for several iterations; mmdet is not imported."""
    modules = unwrap_model(runner.model).modules()
    return [one for one in modules if type(one).__name__ == 'BatchSyncRandomResize']


def _has_stepped(wrapper: Any) -> bool:
    return all(one.should_update() for one in unwrap_optim_wrappers(wrapper))
