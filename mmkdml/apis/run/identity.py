"""Identity of the run in a folder, and the decision to start, resume or overwrite it."""

from __future__ import annotations

import json
import logging
import os
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import broadcast_object_list, get_world_size, is_main_process

from mmkdml.apis.run.checkpoints import RunCheckpoints, checkpoint_number, farthest, skipped
from mmkdml.apis.run.restarts import ATTEMPTS, count_attempt
from mmkdml.apis.run.settings import (
    changed_settings,
    deciding_settings,
    only_extends,
    other_settings_error,
    settings_difference,
)
from mmkdml.checkpoint_io import recorded_meta
from mmkdml.commands import tool_command
from mmkdml.engine.resume.run_identity import RUN
from mmkdml.engine.resume.run_lock import lock_folder, unlock_folder
from mmkdml.files import is_regular, kind_of
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.models.classroom_configs import replace_frozen_checkpoints
from mmkdml.names import IDENTITY_FILE


@dataclass
class RunStart:
    """Decision on the start of a training.

    Attributes:
        identity: ``id``, ``settings``, ``processes`` and ``load_from`` of the run.
        checkpoint: Checkpoint to resume from.
        iteration: Number of finished iterations in it.
        changes: Old and new value of each changed setting by key.
        outdated: Files of an older run to remove when the training starts.
        notes: Lines to log, with their level.
    """

    identity: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    iteration: int = 0
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    outdated: list[Path] = field(default_factory=list)
    notes: list[tuple[int, str]] = field(default_factory=list)

    def warn(self, *messages: str) -> None:
        """Add warnings to the notes."""
        self.notes += [(logging.WARNING, message) for message in messages]


def start_run(config: Config, overwrite: bool = False, accept_changes: bool = False) -> RunStart:
    """Lock a run's folder and decide how its training starts.

    With several processes, the main one decides, and all return or raise the same.

    Args:
        config: The config, with ``work_dir``, ``resume`` and ``load_from``.
        overwrite: Remove the checkpoints of an older run when the training starts.
        accept_changes: Resume although settings or data differ.

    Raises:
        ValueError: If another process trains in the folder; if a new training would mix with an
            older run's checkpoints; if no checkpoint can be resumed, it belongs to another
            run, or settings or data have changed.
        OSError: If the folder is not accessible.
    """
    outcome: list[Any] = [None]
    if is_main_process():
        folders = checkpoint_folders(config)
        try:
            for folder in folders:
                lock_folder(folder)
            outcome = [_decide(config, folders, overwrite, accept_changes)]
        except Exception as error:  # the other processes wait
            unlock_run(config)
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def unlock_run(config: Config) -> None:
    """Release the folders that :func:`start_run` has locked."""
    for folder in checkpoint_folders(config):
        unlock_folder(folder)


def checkpoint_folders(config: Config) -> list[Path]:
    """Return the folder of a run, and that of its checkpoints if the hook has an ``out_dir``."""
    folder = Path(config.work_dir)
    out_dir = ((config.get('default_hooks') or {}).get('checkpoint') or {}).get('out_dir')
    if out_dir is None or '://' in str(out_dir) or Path(out_dir).absolute() == folder.absolute():
        return [folder]
    return [folder, Path(out_dir) / folder.absolute().name]


def _decide(config: Config, folders: list[Path], overwrite: bool, accept_changes: bool) -> RunStart:
    settings = identity_settings(config)
    identity = dict(id=uuid.uuid4().hex, settings=settings, processes=get_world_size())
    start = RunStart({**identity, 'load_from': None, 'adopted': False})
    found = RunCheckpoints(folders)
    start.warn(*found.special)
    if not config.get('resume'):
        if config.get('load_from'):
            start.identity['load_from'] = str(config.load_from)
        _start_new(start, found, folders[0], overwrite)
        start.identity[ATTEMPTS] = count_attempt({}, 0, folders[0])
        return start
    if overwrite:
        raise ValueError(
            '--overwrite starts a new run, but the config has resume=True. Add --cfg-options '
            'resume=False load_from=None'
        )
    recorded = _recorded(folders[0])
    if config.get('load_from'):
        start.checkpoint = Path(config.load_from)
        run = _resume_file(start, found, folders)
    else:
        run = _resume_folder(start, found, folders[0], recorded)
    _take_identity(start, run, recorded, folders[0])
    start.identity[ATTEMPTS] = count_attempt(recorded or {}, start.iteration, folders[0])
    known = run or recorded
    if known is not None:
        start.changes = changed_settings(known['settings'], settings)
        _check_changes(start, config, folders[0], accept_changes)
        if known.get('processes') != get_world_size():
            start.warn(
                f'The run had {known.get("processes")} processes, now it has {get_world_size()}: '
                'it will not end with the same weights'
            )
    elif start.checkpoint is not None:
        start.warn(
            f'{start.checkpoint} was written by an earlier version, without the settings of its '
            'run: changed settings are not detected'
        )
    return start


def _start_new(start: RunStart, found: RunCheckpoints, folder: Path, overwrite: bool) -> None:
    if not found.all:
        return
    names = ', '.join(path.name for path in found.all)
    if not overwrite:
        raise ValueError(
            f'{folder} holds the checkpoints of another run: {names}. Use --resume to continue it, '
            'another --work-dir, or --overwrite to delete its checkpoints'
        )
    start.outdated = [*found.all, folder / 'last_checkpoint']
    start.warn(f'The checkpoints of an older run are deleted: {names}')


def identity_settings(config: Config) -> dict[str, Any]:
    """Return the deciding settings; for frozen members, only whether they have a file.

    A checkpoint records the hash of each file, so the path of the file does not matter.
    """
    settings = deciding_settings(config)
    model = settings['model']
    if isinstance(model, dict):
        replace_frozen_checkpoints(model, lambda path: 'file')
    return settings


def _recorded(folder: Path) -> dict[str, Any] | None:
    """Return the identity in a run's folder; None if it has none."""
    path = folder / IDENTITY_FILE
    if not is_regular(path):
        return None
    with suppress(ValueError):
        if identity := _valid(json.loads(path.read_text())):
            return identity
    raise ValueError(
        f'{path}: expected the id and settings of a run, got other content. Remove it to resume '
        'without comparing settings'
    )


def _valid(identity: Any) -> dict[str, Any] | None:
    if not isinstance(identity, Mapping):
        return None
    fits = isinstance(identity.get('id'), str) and isinstance(identity.get('settings'), Mapping)
    return dict(identity) if fits else None


def _resume_file(
    start: RunStart, found: RunCheckpoints, folders: list[Path]
) -> dict[str, Any] | None:
    """Check the checkpoint that the user chose, and return the identity in it."""
    path: Any = start.checkpoint
    if os.path.lexists(path) and not is_regular(path):
        raise ValueError(
            f'--resume {path}: expected a regular file, got {kind_of(path)}. Pass the file itself'
        )
    checkpoint = load_checkpoint_file(path)
    if 'optimizer' not in checkpoint:
        raise ValueError(
            f'--resume {path}: expected a checkpoint with the state of the optimizer, got weights '
            'only. Start a new run from them with --cfg-options load_from=...'
        )
    in_folder = path.resolve().parent in [folder.resolve() for folder in folders]
    if found.all and not in_folder:
        raise ValueError(
            f'--resume {path}: {folders[0]} holds other checkpoints: '
            f'{", ".join(other.name for other in found.all)}. Choose another --work-dir'
        )
    number = checkpoint_number(path)
    later = [other.name for other in found.all if checkpoint_number(other) > number > 0]
    if later:
        start.warn(f'{", ".join(later)} are later than {path.name} and will be overwritten')
    meta = recorded_meta(checkpoint)
    start.iteration = int(meta.get('iter', 0))
    return _valid(meta.get(RUN))


def _resume_folder(
    start: RunStart, found: RunCheckpoints, folder: Path, recorded: dict[str, Any] | None
) -> dict[str, Any] | None:
    """Find the newest checkpoint of the folder's run, and return the identity in it."""
    metas, unreadable = found.read()
    start.warn(*skipped(unreadable))
    start.checkpoint = farthest(metas)
    if start.checkpoint is None and found.all:
        reasons = [*unreadable.values(), *(f'{path} contains only weights' for path in found.best)]
        raise ValueError(
            f'No checkpoint in {folder} can be resumed:\n  '
            + '\n  '.join(reasons)
            + '\nRestore one, start in another --work-dir, or start over: --overwrite instead '
            'of --resume'
        )
    if start.checkpoint is None:
        start.notes.append(
            (logging.INFO, f'{folder} has no checkpoints: the run starts from scratch')
        )
        return None
    runs = {path: _valid(meta.get(RUN)) for path, meta in metas.items()}
    own = recorded or runs[start.checkpoint] or dict(id=None)
    foreign = [
        f'{path.name} ({run["id"][:8] if run else "no id"})'
        for path, run in runs.items()
        if (run['id'] != own['id'] if run else own['id'] and not own.get('adopted'))
    ]
    if foreign:
        raise ValueError(
            f'{folder} holds checkpoints of different runs: expected those of run '
            f'{(own["id"] or "no id")[:8]}, got {", ".join(foreign)}. Move them away'
        )
    start.iteration = int(metas[start.checkpoint].get('iter', 0))
    return runs[start.checkpoint]


def _take_identity(
    start: RunStart, run: dict[str, Any] | None, recorded: dict[str, Any] | None, folder: Path
) -> None:
    """Keep the id of the resumed run; a run of an earlier version has none and gets one."""
    source = recorded or run
    if start.checkpoint is not None and recorded is not None:
        differs = run['id'] != recorded['id'] if run else not recorded.get('adopted')
        if differs:
            raise ValueError(
                f'--resume {start.checkpoint}: expected a checkpoint of run {recorded["id"][:8]}, '
                f'which {folder} belongs to, got one of run {run["id"][:8] if run else "none"}. '
                'Choose another --work-dir'
            )
    if source is not None:
        start.identity.update(id=source['id'], adopted=source.get('adopted') is True)
        start.identity['load_from'] = source.get('load_from')
    else:
        start.identity['adopted'] = start.checkpoint is not None


def _check_changes(start: RunStart, config: Config, folder: Path, accept_changes: bool) -> None:
    if not start.changes:
        return
    if not (accept_changes or only_extends(start.changes, config)):
        raise other_settings_error(
            f'{folder} has a run',
            start.changes,
            f'Resume with the settings of the run: {tool_command("train")} {folder} --resume. Or '
            'continue with the new ones: --accept-changes',
        )
    difference = settings_difference(start.changes)
    start.warn(f'Resumed with changed settings (old -> new):\n{difference}')
