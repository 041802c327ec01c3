"""Hook that saves a run's id and settings, and applies changed settings on resume."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Collection, Iterable, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmkdml.console import ON_CONSOLE
from mmkdml.engine.distributed import raise_in_all_processes
from mmkdml.engine.resume.exact_resume import PROGRESS
from mmkdml.engine.resume.schedules import advance
from mmkdml.files import write_atomically
from mmkdml.names import FINISHED, IDENTITY_FILE
from mmkdml.registry import HOOKS

#: Key of the identity in a checkpoint's ``meta``.
RUN = 'run'
# Prefixes of settings that determine the optimizer's hyperparameters, and the best score.
_SCHEDULED = (
    'auto_scale_lr', 'data.train', 'optim_wrapper', 'param_scheduler', 'train_cfg',
    'train_dataloader',
)  # fmt: skip
_SCORED = ('data.val', 'default_hooks.checkpoint', 'val_')


@HOOKS.register_module()
class RunIdentityHook(Hook):
    """Write a run's identity and config to its folder, and its identity to its checkpoints.

    If settings changed on resume, the config determines the seed, the hyperparameters and the
    schedules, which are advanced to the step of the checkpoint. Weights, optimizer moments and loss
    scale come from the checkpoint. A best score that was measured with other settings is discarded;
    its checkpoint is kept.

    Args:
        identity: Identity with ``id`` and ``settings``, built by :mod:`mmkdml.apis.run.identity`.
        changed: Dotted keys of the settings that differ from the checkpoint's.
        outdated: Files of a run that is overwritten; removed when training starts.
        notes: Lines to log, each with its log level.
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
            runner.logger.log(level, note, extra=ON_CONSOLE)
        self.notes = ()  # Also called by a test of the same runner.

    @raise_in_all_processes()
    def before_train(self, runner: Runner) -> None:
        """Remove outdated files, then write identity and config."""
        name = os.path.basename(runner.cfg.filename or f'{runner.timestamp}.py')
        self.identity['config'] = name
        if not is_main_process():
            return
        folder = Path(runner.work_dir)
        for path in self.outdated:
            Path(path).unlink(missing_ok=True)
        self._write_identity(runner)
        config = copy.copy(runner.cfg)  # It describes this process, not the run.
        config.update(resume=False, load_from=self.identity.get('load_from'))
        write_atomically(folder / name, config.dump().encode())

    def after_train(self, runner: Runner) -> None:
        """Record that the run is finished."""
        if is_main_process():
            self._write_identity(runner, {FINISHED: dict(epoch=runner.epoch, iter=runner.iter)})

    def _write_identity(self, runner: Runner, more: Mapping[str, Any] | None = None) -> None:
        text = json.dumps({**self.identity, **(more or {})}, indent=1, sort_keys=True)
        write_atomically(Path(runner.work_dir, IDENTITY_FILE), text.encode())

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Add the identity to a checkpoint's ``meta``."""
        checkpoint['meta'][RUN] = self.identity

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Replace the entries of a resumed checkpoint that depend on changed settings, in place.

        The runner's optimizer and schedulers must have been built.
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
    """Set hyperparameters and schedules to their values at the checkpoint's step."""
    meta, schedulers = checkpoint['meta'], runner.param_schedulers
    if schedulers is not None:
        by_name = schedulers if isinstance(schedulers, dict) else {'': schedulers}
        done = meta.get(PROGRESS, {}).get('done', 0)
        advance(by_name.values(), meta['epoch'], meta['iter'], done)
        if any(getattr(one, 'need_val_args', False) for its in by_name.values() for one in its):
            runner.logger.warning(
                'ReduceOnPlateau schedules restart, because they depend on earlier scores'
            )
        states = {name: [one.state_dict() for one in its] for name, its in by_name.items()}
        checkpoint['param_schedulers'] = states if isinstance(schedulers, dict) else states['']
    fits: list[bool] = []
    state = _with_moments(runner.optim_wrapper.state_dict(), checkpoint['optimizer'], fits)
    if not all(fits):
        runner.logger.warning(
            'The optimizer starts without its saved moments, because the optimizer or its '
            'parameter groups changed'
        )
    checkpoint['optimizer'] = state


def _with_moments(fresh: Any, saved: Any, fits: list[bool]) -> Any:
    """Return the state of new optimizers with saved moments; add to ``fits`` for each optimizer."""
    if isinstance(fresh, Mapping) and 'param_groups' in fresh:
        fits.append(isinstance(saved, Mapping) and _kind(fresh) == _kind(saved))
        kept = fresh.keys() & saved.keys() & {'state', 'loss_scaler'} if fits[-1] else ()
        return {**fresh, **{key: saved[key] for key in kept}}
    if isinstance(fresh, Mapping):
        saved = saved if isinstance(saved, Mapping) else {}
        return {key: _with_moments(value, saved.get(key), fits) for key, value in fresh.items()}
    if isinstance(fresh, list):
        saved = saved[: len(fresh)] if isinstance(saved, list) else []
        return [_with_moments(*pair, fits) for pair in zip_longest(fresh, saved)]
    return fresh


def _kind(state: Mapping[str, Any]) -> Any:
    """Return hyperparameter names and parameter counts, which are equal for compatible states."""
    changing = {'params', 'param_names', 'initial_lr'}
    return [
        (sorted({*group} - changing), len(group['params']))
        for group in state.get('param_groups', ())
    ]
