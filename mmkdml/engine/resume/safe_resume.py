"""Hook that strips code and file paths from a checkpoint before resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.registry import HOOKS


@HOOKS.register_module()
class SafeResumeHook(Hook):
    """Remove entries of a checkpoint that would make mmengine execute code or delete files.

    Even a checkpoint without pickled code can do harm: mmengine's ``resume`` executes
    ``meta['config']`` as Python, and ``CheckpointHook`` deletes the file or folder named by
    ``best_ckpt`` when a better checkpoint is saved. The hook removes the config, and each
    ``best_ckpt`` that is not a ``best_*.pth`` in the run's folder.
    """

    priority = 'VERY_HIGH'  # Before any other hook uses the checkpoint.

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Remove the entries from ``meta`` and ``message_hub``, in place."""
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
    """Copy to a plain dict, because a pickled OrderedDict may override methods."""
    return {key: holder[key] for key in holder} if isinstance(holder, dict) else {}


def _is_best(path: Any, work_dir: str) -> bool:
    path = Path(str(path))
    return path.match('best_*.pth') and path.parent.resolve() == Path(work_dir).resolve()
