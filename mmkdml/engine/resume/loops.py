"""Training loops that can be stopped after any iteration and resumed from there."""

from __future__ import annotations

import signal
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NoReturn

from mmengine.dataset import InfiniteSampler
from mmengine.dist import barrier, get_rank, is_distributed
from mmengine.hooks import EMAHook
from mmengine.registry import LOOPS
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn

from mmkdml.console import ON_CONSOLE
from mmkdml.engine.distributed import average_gradients
from mmkdml.engine.resume.checkpoint_files import ATOMIC_FILES, verify_first_checkpoint
from mmkdml.engine.resume.seeding import EPOCH, STEP, SeededBatches, seed_all
from mmkdml.engine.resume.signals import StopRequested, StopSignals
from mmkdml.names import INTERRUPTED


class ResumableLoop(BaseLoop):
    """Mixin that makes an mmengine loop resumable after each iteration; must be the first base.

    Random number generators are reseeded for each iteration and sample from the run's seed and
    their indices, so no generator state needs to be saved. On SIGTERM and Ctrl-C, the current
    iteration or validation is completed, the checkpoint ``interrupted.pth`` is saved, and the
    process exits with 128 + the signal's number (143, 130). A run that waits for a batch stops
    immediately. A run in a single process also saves the checkpoint if loading a batch fails,
    for example because an image is unreadable or a worker was killed.

    :class:`~mmkdml.engine.ExactResumeHook` saves and restores the attributes.

    Args:
        runner: The runner.
        dataloader: Data loader with a batch sampler, or its settings.
        augmentations_per_image: Number of random augmentations of each image, at least 1; they
            alternate from epoch to epoch. Default: a new augmentation every time.
        **settings: Arguments of mmengine's loop.

    Attributes:
        first_iter: First iteration of the epoch.
        validated: True if no validation is due.

    Raises:
        ValueError: If ``augmentations_per_image`` is below 1.
    """

    first_iter = 0
    validated = False
    _batches: SeededBatches | None = None

    def __init__(
        self,
        runner: Any,
        dataloader: Any,
        augmentations_per_image: int | None = None,
        **settings: Any,
    ) -> None:
        if augmentations_per_image is not None and augmentations_per_image < 1:
            raise ValueError(
                'Invalid augmentations_per_image: expected at least 1, or None for a new '
                f'augmentation every time, got {augmentations_per_image}'
            )
        super().__init__(runner, dataloader, **settings)
        self._augmentations = augmentations_per_image

    def run(self) -> nn.Module:
        """Train; raise SystemExit if a signal requests a stop."""
        with StopSignals() as self._stop_signals:
            try:
                model = super().run()
            except StopRequested:
                self._stop_waiting()
            if number := self._stop_signals.requested():
                raise SystemExit(128 + number)
        return model

    def validate_resumed(self) -> None:
        """Run the validation that was due when the run was stopped."""
        self._decide_current_val_interval()
        done, end = self._progress()
        due = done >= max(self.val_begin, 1) and (done % self.val_interval == 0 or done == end)
        if due and not self.validated:
            self.runner.val_loop.run()

    @abstractmethod
    def _progress(self) -> tuple[int, int]:
        """Return progress and end of the training in the unit of ``val_interval``."""

    def _remaining_batches(self) -> Iterator[Any]:
        """Yield the remaining batches of the epoch; save a checkpoint if loading one fails."""
        seed_all(self.runner.seed, EPOCH, self._epoch)  # A sampler may draw its own seed.
        # Not built earlier, because resuming changes the runner's seed.
        self._batches = self._batches or SeededBatches(
            self.dataloader, self.runner.seed, self._augmentations
        )
        try:
            with self._interruptible():
                batches = self._batches.start(self.first_iter, self._iter - self.first_iter)
            while True:
                with self._interruptible():
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch
        except Exception:
            if not is_distributed():  # Other processes would be in the middle of a step.
                self._save()
                self.runner.logger.error(
                    f'Loading the batch of iteration {self._iter + 1} failed; --resume continues '
                    f'from {INTERRUPTED}'
                )
            raise

    def _interruptible(self) -> Any:
        # Several processes stop together after a step, unless a batch never arrives.
        return nullcontext() if is_distributed() else self._stop_signals.interruptible()

    def _stop_waiting(self) -> NoReturn:
        """Save and exit while the run waits for a batch of the training or a validation."""
        number, saved = self._stop_signals.number, 'the last checkpoint'
        if not is_distributed():  # Other processes would be in the middle of a step.
            hub = self.runner.message_hub
            if hub.get_info('loop_stage') == 'val':
                hub.update_info('loop_stage', 'train')  # The validation is repeated on resume.
                for hook in self.runner.hooks:
                    if isinstance(hook, EMAHook):
                        hook.after_val_epoch(self.runner)  # Restores the trained weights.
            self._save()
            saved = INTERRUPTED
        self._log_stop(number, ' while waiting for a batch,', saved)
        raise SystemExit(128 + number)

    def _seed_step(self) -> None:
        seed_all(self.runner.seed, STEP, self._iter, get_rank())

    def _stop_if_requested(self) -> None:
        number = self._stop_signals.requested()
        if not number:
            return
        average_gradients(self.runner)
        self._save()
        self._log_stop(number)
        barrier()  # A launcher kills the other processes when the first one exits.
        raise SystemExit(128 + number)

    def _log_stop(self, number: int, when: str = '', saved: str = INTERRUPTED) -> None:
        self.runner.logger.info(
            f'Stopped by {signal.Signals(number).name}{when} after iteration {self._iter}; '
            f'--resume continues from {saved}',
            extra=ON_CONSOLE,
        )

    def _save(self) -> None:
        self.runner.save_checkpoint(
            self.runner.work_dir,
            INTERRUPTED,
            meta=dict(epoch=self._epoch, iter=self._iter),
            backend_args=ATOMIC_FILES,
        )
        verify_first_checkpoint(self.runner, Path(self.runner.work_dir) / INTERRUPTED)


@LOOPS.register_module()
class ResumableTrainLoop(ResumableLoop, EpochBasedTrainLoop):
    """``EpochBasedTrainLoop`` that is resumable after each iteration; see :class:`ResumableLoop`.

    Args:
        runner: The runner.
        dataloader: Data loader with a batch sampler, or its settings.
        **settings: Arguments of ``EpochBasedTrainLoop`` and :class:`ResumableLoop`.
    """

    def run_epoch(self) -> None:
        """Train on the remaining batches of an epoch."""
        self.validated = True
        self._stop_if_requested()
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        for index, batch in enumerate(self._remaining_batches(), self._iter - self.first_iter):
            self.run_iter(index, batch)
        self.validated = False
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        self.first_iter = self._iter

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train on the batch with index ``idx`` in the epoch."""
        self._seed_step()
        super().run_iter(idx, data_batch)
        self._stop_if_requested()

    def _progress(self) -> tuple[int, int]:
        return self._epoch, self._max_epochs


@LOOPS.register_module()
class ResumableIterTrainLoop(ResumableLoop, IterBasedTrainLoop):
    """``IterBasedTrainLoop`` that is resumable after each iteration; see :class:`ResumableLoop`.

    Args:
        runner: The runner.
        dataloader: Data loader with a batch sampler, or its settings. Its sampler may be infinite.
        **settings: Arguments of ``IterBasedTrainLoop`` and :class:`ResumableLoop`.
    """

    def __init__(self, runner: Any, dataloader: Any, **settings: Any) -> None:
        super().__init__(runner, dataloader, **settings)
        self.dataloader_iterator = _Endless(self)

    def run_iter(self, data_batch: Any) -> None:
        """Train on a batch."""
        self.validated = False
        self._seed_step()
        super().run_iter(data_batch)
        self._stop_if_requested()

    def _progress(self) -> tuple[int, int]:
        return self._iter, self._max_iters


class _Endless:
    """Iterator over the batches of one endless epoch, or of successive epochs."""

    def __init__(self, loop: ResumableIterTrainLoop) -> None:
        self.loop = loop
        self._batches: Iterator[Any] = iter(())

    def skip_iter(self, _: int) -> None:
        """Do nothing, because the loop tracks its position itself."""

    def __next__(self) -> Any:
        for batch in self._batches:
            return batch
        loop, sampler = self.loop, self.loop.dataloader.sampler
        if not isinstance(sampler, InfiniteSampler):
            length = len(loop.dataloader)
            loop.first_iter = loop.iter // length * length
            sampler.set_epoch(loop.iter // length)
        self._batches = loop._remaining_batches()
        return next(self._batches)
