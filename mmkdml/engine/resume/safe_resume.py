"""A checkpoint that is resumed tells how far a run had come, and orders nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.registry import HOOKS


@HOOKS.register_module()
class SafeResumeHook(Hook):
    """Takes out of a checkpoint what mmengine would run, or delete, on its word.

    A file that holds numbers and texts alone can still do harm. mmengine's ``resume`` runs
    ``meta['config']`` as Python, and its checkpoint hook deletes the file or the whole folder that
    ``best_ckpt`` names when a better checkpoint comes. So the first is left out, and so is the
    other, unless it is a ``best_*.pth`` in the folder of the run.
    """

    priority = 'VERY_HIGH'  # before any other hook sees the checkpoint

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Replaces ``meta`` and what the message hub keeps by dicts without these.

        Args:
            runner: The runner.
            checkpoint: As it was loaded; changed in place.
        """
        if 'meta' in checkpoint:
            checkpoint['meta'] = _plain(checkpoint['meta'])
            checkpoint['meta'].pop('config', None)
        if 'message_hub' in checkpoint:
            hub = checkpoint['message_hub'] = _plain(checkpoint['message_hub'])
            info = hub['runtime_info'] = _plain(hub.get('runtime_info'))
            for key in [key for key in info if str(key).startswith('best_ckpt')]:
                if not _is_best(info[key], runner.work_dir):
                    del info[key]


def _plain(holder: Any) -> dict[str, Any]:
    """As a plain dict: a pickled OrderedDict may bring methods of its own."""
    return {key: holder[key] for key in holder} if isinstance(holder, dict) else {}


def _is_best(path: Any, work_dir: str) -> bool:
    path = Path(str(path))
    return path.match('best_*.pth') and path.parent.resolve() == Path(work_dir).resolve()
