"""Checkpoint hook that always keeps an intact checkpoint on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from mmkdml.checkpoint_io import plain_numbers
from mmkdml.engine.distributed import average_gradients
from mmkdml.engine.resume.checkpoint_files import (
    ATOMIC_FILES,
    AtomicFileBackend,
    verify_first_checkpoint,
)
from mmkdml.engine.resume.run_lock import holds_lock
from mmkdml.files import own_file, remove_partial_files
from mmkdml.names import INTERRUPTED
from mmkdml.registry import HOOKS

_HIDDEN = (
    '"FileClient" will be deprecated in future. Please use io functions in ',
    '"HardDiskBackend" is the alias of "LocalBackend" and the former will be deprecated in future.',
    # Keys of members need no prefix.
    'The prefix is not set in metric class ',
)


@contextmanager
def hide_notes(logger: logging.Logger) -> Iterator[None]:
    """Hide warnings of mmengine that users cannot act on, such as deprecations of its own calls."""

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_HIDDEN)

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """``CheckpointHook`` that writes local checkpoints atomically.

    Old checkpoints, the previous best one and ``interrupted.pth`` are removed only after their
    replacement is on disk, so there are briefly ``max_keep_ckpts`` + 1 checkpoints.

    NumPy scalars in a checkpoint, such as the score of a metric, are converted to Python numbers.
    The first checkpoint of a run is loaded once, so a run with unsupported content fails early.

    Args:
        *args: Arguments of ``CheckpointHook``.
        backend_args: Settings of a remote storage, which is not written atomically.
        **kwargs: Arguments of ``CheckpointHook``.
    """

    def __init__(
        self, *args: Any, backend_args: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, backend_args=backend_args or ATOMIC_FILES, **kwargs)

    def before_train(self, runner: Runner) -> None:
        """Restore the state of a resumed run, and remove partial files of killed processes."""
        with hide_notes(runner.logger):
            super().before_train(runner)
        # Without it, a new best score would be missing in the checkpoint of its epoch.
        self.last_ckpt = runner.message_hub.get_info('last_ckpt')
        # The folder may be a copy; keep the best checkpoint of the original.
        best = getattr(self, 'best_ckpt_path', None)
        self.best_ckpt_path: str | None = best and self._in_folder(best)
        for key, path in getattr(self, 'best_ckpt_path_dict', {}).items():
            self.best_ckpt_path_dict[key] = path and self._in_folder(path)
        if holds_lock(self.out_dir):  # else another process may be writing them
            remove_partial_files(Path(self.out_dir), '*.pth')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Convert NumPy scalars, and record whether greater or less is better for each score."""
        for key, value in checkpoint.items():
            if not key.endswith('state_dict'):  # These contain tensors only.
                checkpoint[key] = plain_numbers(value)
        if self.save_best and 'auto' not in self.key_indicators:
            rules = dict(zip(self.key_indicators, self.rules, strict=True))
            checkpoint['message_hub']['runtime_info']['best_rules'] = rules

    def _in_folder(self, path: str) -> str:
        return self.file_backend.join_path(self.out_dir, Path(path).name)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        self._remove_old()  # The previous best checkpoint has been replaced.
        average_gradients(runner)
        if is_main_process():
            own_file(runner.work_dir, 'last_checkpoint')
        super()._save_checkpoint_with_step(runner, step, meta)
        verify_first_checkpoint(runner, self.last_ckpt)
        self._remove_old()
        if is_main_process():
            interrupted = Path(runner.work_dir) / INTERRUPTED
            if interrupted.is_file() or interrupted.is_symlink():
                interrupted.unlink()

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        super()._save_best_checkpoint(runner, metrics)
        self._remove_old()

    def _remove_old(self) -> None:
        if isinstance(self.file_backend, AtomicFileBackend):
            best = getattr(self, 'best_ckpt_path_dict', {}).values()
            self.file_backend.remove_old(self.last_ckpt, self.best_ckpt_path, *best)
