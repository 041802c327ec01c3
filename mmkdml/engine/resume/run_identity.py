"""Id and settings of a run in its folder and checkpoints; changed settings on resume."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.engine.distributed import raise_in_all_processes
from mmkdml.engine.resume.schedules import advance
from mmkdml.files import write_atomically
from mmkdml.registry import HOOKS

#: File in a run's folder that holds its identity.
IDENTITY_FILE = 'identity.json'
#: Key of the identity in a checkpoint's ``meta``.
RUN = 'run'
# Parts of the settings that the optimizer's hyperparameters depend on, and the best score.
_SCHEDULED = (
    'auto_scale_lr', 'data.train', 'optim_wrapper', 'param_scheduler', 'train_cfg',
    'train_dataloader',
)  # fmt: skip
_SCORED = ('data.val', 'default_hooks.checkpoint', 'val_')


@HOOKS.register_module()
class RunIdentityHook(Hook):
    """Write a run's identity and config to its folder, and its identity to its checkpoints.

    When settings were changed on resume, the config's hold: its seed, its learning rates and other
    hyperparameters, and its schedules, advanced to the step of the checkpoint. Weights, moments of
    the optimizer and the loss scale are the checkpoint's. A best score that was measured otherwise
    is forgotten; its checkpoint stays.

    Args:
        identity: ``id``, ``settings`` and more, as :mod:`mmkdml.apis.run_identity` makes it.
        changed: Dotted keys of the settings that differ from the checkpoint's.
        outdated: Files of the older run that is overwritten; removed when training starts.
        notes: Lines to log, with their level.
    """

    priority = 'VERY_HIGH'

    def __init__(
        self,
        identity: dict[str, Any],
        changed: Collection[str] = (),
        outdated: Iterable[str | Path] = (),
        notes: Iterable[tuple[int, str]] = (),
    ) -> None:
        self.identity = identity
        self.changed = tuple(changed)
        self.outdated = tuple(outdated)
        self.notes: tuple[tuple[int, str], ...] = tuple(notes)

    def before_run(self, runner: Runner) -> None:
        """Log the notes."""
        for level, note in self.notes:
            runner.logger.log(level, note)
        self.notes = ()  # a test of this runner begins with it, too

    @raise_in_all_processes()
    def before_train(self, runner: Runner) -> None:
        """Write identity and config; until now the folder is as it was."""
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        for path in self.outdated:
            Path(path).unlink(missing_ok=True)
        text = json.dumps(self.identity, indent=1, sort_keys=True)
        write_atomically(folder / IDENTITY_FILE, text.encode())
        name = os.path.basename(runner.cfg.filename or f'{runner.timestamp}.py')
        config = copy.copy(runner.cfg)  # which says how this process started, not the run
        config.update(resume=False, load_from=self.identity.get('load_from'))
        write_atomically(folder / name, config.dump().encode())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the identity to a checkpoint's ``meta``."""
        checkpoint['meta'][RUN] = self.identity

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Replace what depends on changed settings in a checkpoint that is resumed.

        Args:
            runner: The runner; its optimizer and schedulers are built.
            checkpoint: The checkpoint as it was loaded; changed in place.
        """
        if not runner._resume or runner._has_loaded:
            return
        if self._has_changed('randomness') and runner._randomness_cfg.get('seed') is not None:
            checkpoint['meta']['seed'] = runner._randomness_cfg['seed']
        if self._has_changed(*_SCORED) and 'message_hub' in checkpoint:
            info = checkpoint['message_hub']['runtime_info']
            for key in [key for key in info if str(key).startswith('best_')]:
                del info[key]
        if self._has_changed(*_SCHEDULED) and 'optimizer' in checkpoint:
            _apply_schedule(runner, checkpoint)

    def _has_changed(self, *prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in self.changed)


def _apply_schedule(runner: Runner, checkpoint: dict[str, Any]) -> None:
    """Set hyperparameters and schedules to what the config gives at a checkpoint's step."""
    meta, schedulers = checkpoint['meta'], runner.param_schedulers
    if schedulers is not None:
        by_name = schedulers if isinstance(schedulers, dict) else {'': schedulers}
        done = meta.get('place', {}).get('done', 0)
        advance(by_name.values(), meta['epoch'], meta['iter'], done)
        if any(getattr(one, 'need_val_args', False) for its in by_name.values() for one in its):
            runner.logger.warning('ReduceOnPlateau schedules start again: they depend on scores')
        states = {name: [one.state_dict() for one in its] for name, its in by_name.items()}
        checkpoint['param_schedulers'] = states if isinstance(schedulers, dict) else states['']
    state, kept = _with_moments(runner.optim_wrapper.state_dict(), checkpoint['optimizer'])
    if not kept:
        runner.logger.warning(
            'The state of the optimizer (moments) is not resumed: the optimizer or its parameter '
            'groups are different'
        )
    checkpoint['optimizer'] = state


def _with_moments(fresh: Any, saved: Any) -> tuple[Any, bool]:
    """A fresh optimizer's state with the moments of a saved one, and whether they fit."""
    if isinstance(fresh, Mapping) and 'param_groups' in fresh:
        if not isinstance(saved, Mapping) or _kind(fresh) != _kind(saved):
            return fresh, False
        moved = {key: saved[key] for key in ('state', 'loss_scaler') if key in saved}
        return {**fresh, **{key: moved[key] for key in moved if key in fresh}}, True
    if isinstance(fresh, Mapping):
        saved = saved if isinstance(saved, Mapping) else {}
        pairs = {key: _with_moments(value, saved.get(key)) for key, value in fresh.items()}
        return {key: value for key, (value, _) in pairs.items()}, all(
            ok for _, ok in pairs.values()
        )
    if isinstance(fresh, list) and fresh and isinstance(fresh[0], Mapping):
        saved = saved if isinstance(saved, list) else []
        parts = [
            _with_moments(value, saved[place] if place < len(saved) else None)
            for place, value in enumerate(fresh)
        ]
        return [value for value, _ in parts], all(ok for _, ok in parts)
    return fresh, True


def _kind(state: Mapping[str, Any]) -> Any:
    """Hyperparameters and numbers of parameters: equal for states that fit each other."""
    changing = {'params', 'param_names', 'initial_lr'}
    return [
        (sorted({*group} - changing), len(group['params']))
        for group in state.get('param_groups', ())
    ]
