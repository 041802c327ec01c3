"""Results of a run: ``results.json`` and ``results.csv`` in its folder.

The format is documented in ``docs/run_folder.md``.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmkdml.apis.run.checkpoints import BEST as BEST_PATTERN
from mmkdml.apis.run.checkpoints import RunCheckpoints, checkpoint_number
from mmkdml.apis.run.comparison import evaluation_changes, recorded_config, recorded_identity
from mmkdml.apis.run.settings import DATA, deciding_settings, settings_difference
from mmkdml.apis.tta import plain_config, tta_changes
from mmkdml.engine.resume.run_identity import RUN
from mmkdml.engine.unwrap import unwrap_model
from mmkdml.files import file_sha256, is_regular, json_text, json_values, own_file, write_atomically
from mmkdml.metric_info import unit_of
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.names import ALL_STUDENTS, ENSEMBLE, PLAIN
from mmkdml.version import __version__

RESULTS_JSON, RESULTS_CSV = 'results.json', 'results.csv'
SCHEMA, VERSION = 'mmkdml.results', 1
BEST, LAST, OTHER = 'best', 'last', 'other'
_LOCK = '.results.lock'
_PLAIN = (str, int, float, list, type(None))

# Type of each key; None is allowed where `| None` says so.
_RUN: dict[str, Any] = dict(
    id=str | None, config=str | None, config_sha256=str | None, seed=int | None, data=dict,
    versions=dict,
)  # fmt: skip
_EVALUATION: dict[str, Any] = dict(
    split=str, epoch=int | None, iter=int | None, checkpoint=str | None,
    checkpoint_sha256=str | None, kind=str | None, run=str | None, changes=dict, data=dict,
    cases=int, date=str, version=str, values=list,
)  # fmt: skip
_VALUE: dict[str, Any] = dict(member=str, measure=str, value=float | int | None, unit=str)
#: Columns of ``results.csv`` and of :attr:`Results.table`.
COLUMNS = (
    'split', 'kind', 'checkpoint', 'epoch', 'iter', 'member', 'measure', 'value', 'unit', 'cases',
    'changes', 'date', 'seed', 'version', 'run', 'config_sha256', 'checkpoint_sha256',
    'data_sha256',
)  # fmt: skip


@dataclass(frozen=True)
class Results:
    """Content of ``results.json``.

    Attributes:
        run: Metadata of the run: ``id``, ``config`` (file name), ``config_sha256``, ``seed``,
            ``data`` (SHA-256 of the split files) and ``versions``.
        evaluations: Validations and tests in the order of their writing. The keys are described in
            ``docs/run_folder.md``.
    """

    run: Mapping[str, Any]
    evaluations: list[dict[str, Any]]

    @property
    def table(self) -> pd.DataFrame:
        """One row per evaluation, member and measure, with the columns :data:`COLUMNS`."""
        rows = [
            {
                **one,
                **value,
                'changes': settings_difference(one['changes']).replace('\n', ';').strip(),
                'seed': self.run['seed'],
                'config_sha256': self.run['config_sha256'],
                'data_sha256': ' '.join(filter(None, one['data'].values())),
            }
            for one in self.evaluations
            for value in one['values']
        ]
        table = pd.DataFrame(rows, columns=list(COLUMNS))
        numbers = dict.fromkeys(('epoch', 'iter', 'cases', 'seed'), 'Int64')
        return table.astype({'value': float, **numbers})


def load_results(run: str | Path) -> Results:
    """Read the results of a run.

    Args:
        run: Folder of the run, or its ``results.json``.

    Raises:
        FileNotFoundError: If there are no results.
        ValueError: If the file is damaged, or of a newer version of the format.
    """
    path = Path(run)
    path = path / RESULTS_JSON if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f'There is no {path}: expected the folder of a run that was validated or tested'
        )
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path}: expected JSON, got other content ({error})') from error
    _check(content, dict(schema=str, version=int, run=dict, evaluations=list), str(path))
    if (content['schema'], content['version']) != (SCHEMA, VERSION):
        raise ValueError(
            f'{path}: expected schema {SCHEMA} version {VERSION}, got {content["schema"]} version '
            f'{content["version"]}. Read it with the version of mmkdml that wrote it'
        )
    _check(content['run'], _RUN, f'{path}: run')
    for number, one in enumerate(content['evaluations']):
        _check(one, _EVALUATION, f'{path}: evaluations.{number}')
        for value in one['values']:
            _check(value, _VALUE, f'{path}: evaluations.{number}.values')
    return Results(content['run'], content['evaluations'])


def _check(content: Any, keys: Mapping[str, Any], where: str) -> None:
    if not isinstance(content, dict):
        raise ValueError(f'{where}: expected a dict, got {type(content).__name__}')
    for key, kind in keys.items():
        if key not in content or not isinstance(content[key], kind):
            found = repr(content[key]) if key in content else 'nothing'
            name = getattr(kind, '__name__', kind)
            raise ValueError(f'{where}: {key}: expected {name}, got {found}')


class ResultsHook(Hook):
    """Write the metrics of each validation and test to ``results.json`` and ``results.csv``.

    :func:`mmkdml.apis.make_runner` adds it. Validations are written during a training, tests if
    :func:`mmkdml.apis.load_weights` has loaded the checkpoint.
    """

    priority = 'LOW'

    def __init__(self) -> None:
        self._training = False

    def before_train(self, runner: Runner) -> None:
        """Remove results of an older run, and of validations after the resumed step."""
        self._training = True
        if not is_main_process():
            return
        with _editing(runner) as (run, evaluations):
            own = run.get('id') == recorded_identity(runner.work_dir).get('id')
            evaluations[:] = [
                one
                for one in evaluations
                if own and (one['split'] != 'val' or (one['iter'] or 0) <= runner.iter)
            ]
            run.update(_run(runner, runner.seed))

    def after_train(self, runner: Runner) -> None:
        """Note that validations are no longer part of a training."""
        self._training = False

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the metrics of a validation during the training."""
        if self._training and is_main_process():
            place = dict(
                epoch=runner.epoch, iter=runner.iter, checkpoint=None, checkpoint_sha256=None,
                kind=None, run=recorded_identity(runner.work_dir).get('id'), changes={},
            )  # fmt: skip
            _write(runner, 'val', metrics or {}, place, runner.seed)

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Write the metrics of a test."""
        tested = getattr(runner, 'tested_checkpoint', None)
        if tested is not None and is_main_process():
            path, meta = tested
            place = {**_checkpoint(path, meta, Path(runner.work_dir)), 'changes': _changes(runner)}
            _write(runner, 'test', metrics or {}, place, meta.get('seed'))


def _checkpoint(path: Path, meta: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Describe a tested checkpoint; it is the last one if the folder has no later one."""
    run, number = meta.get(RUN), checkpoint_number(path)
    kind = BEST if path.match(BEST_PATTERN) else OTHER
    if kind == OTHER and number > 0:
        files = [*RunCheckpoints([folder]).all, path]
        kind = LAST if number == max(map(checkpoint_number, files)) else OTHER
    return dict(
        epoch=number or None if 'epoch_' in path.name else None,
        iter=number or None if 'iter_' in path.name else None,
        checkpoint=path.name,
        checkpoint_sha256=file_sha256(path),
        kind=kind,
        run=run.get('id') if isinstance(run, Mapping) else None,
    )


def _changes(runner: Runner) -> dict[str, list[Any]]:
    """Compare the settings of a test with those of the run in the folder."""
    path = recorded_config(runner.work_dir)
    own = None if path is None else Config.fromfile(path)
    changes = {} if own is None else evaluation_changes(own, plain_config(runner.cfg))
    changes.update(tta_changes(own, runner.cfg))
    return {
        key: [value if isinstance(value, _PLAIN) else str(value) for value in both]
        for key, both in changes.items()
    }


def _write(
    runner: Runner, split: str, metrics: Mapping[str, Any], place: Mapping[str, Any], seed: Any
) -> None:
    loader = runner.val_dataloader if split == 'val' else runner.test_dataloader
    new = dict(
        split=split,
        **place,
        data=deciding_settings(runner.cfg, (f'{split}_dataloader',))[DATA],
        cases=len(loader.dataset),
        date=datetime.now(timezone.utc).isoformat(timespec='seconds'),
        version=__version__,
        values=list(_values(metrics, unwrap_model(runner.model))),
    )
    with _editing(runner) as (run, evaluations):
        if not run:
            run.update(_run(runner, seed))
        evaluations[:] = [one for one in evaluations if _key(one) != _key(new)]
        evaluations.append(new)


def _key(evaluation: Mapping[str, Any]) -> Any:
    keys = ('split', 'run', 'epoch', 'iter', 'checkpoint', 'changes', 'data')
    return [evaluation[key] for key in keys]


@contextmanager
def _editing(runner: Runner) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """Yield the results of a folder, and write them if the block has changed them."""
    folder = Path(runner.work_dir)
    own_file(folder, _LOCK)
    with FileLock(folder / _LOCK):  # a test may run during the training
        path, before = own_file(folder, RESULTS_JSON), Results({}, [])
        if path.exists():
            try:
                before = load_results(path)
            except ValueError as error:
                moved = path.with_name(f'results.damaged_{datetime.now():%Y%m%d_%H%M%S}.json')
                path.rename(moved)
                runner.logger.warning(f'{error}. The file is kept as {moved.name}')
        run, evaluations = dict(before.run), list(before.evaluations)
        yield run, evaluations
        if evaluations != before.evaluations or (run != before.run and path.exists()):
            content = dict(schema=SCHEMA, version=VERSION, run=run, evaluations=evaluations)
            text = json_text(content, indent=1)
            write_atomically(path, f'{text}\n'.encode())
            results = Results(run, json.loads(text)['evaluations'])
            table = results.table.to_csv(index=False)
            write_atomically(own_file(folder, RESULTS_CSV), table.encode())


def _values(metrics: Mapping[str, Any], model: nn.Module) -> Iterator[dict[str, Any]]:
    """Yield member, measure, value and unit of each number; ``model`` if no member is named."""
    names = {ALL_STUDENTS, ENSEMBLE, PLAIN}
    if isinstance(model, KnowledgeDistiller):
        names |= set(model.named_members())
    for key, value in metrics.items():
        number = json_values(value)
        if value is None or isinstance(number, bool) or not isinstance(number, int | float | None):
            continue
        first, _, rest = key.partition('/')
        member, measure = (first, rest) if first in names and rest else (PLAIN, key)
        yield dict(member=member, measure=measure, value=number, unit=unit_of(measure))


def _run(runner: Runner, seed: Any) -> dict[str, Any]:
    """Return the metadata of the run in the runner's folder; of its config without a run."""
    identity = recorded_identity(runner.work_dir)
    name = identity.get('config') or Path(runner.cfg.filename or '').name
    file = Path(runner.work_dir, name)
    known = bool(name) and is_regular(file)
    settings = identity.get('settings') or {}
    return dict(
        id=identity.get('id'),
        config=name if known else None,
        config_sha256=file_sha256(file) if known else None,
        seed=seed if isinstance(seed, int) else None,
        data=settings.get(DATA) or {},
        versions=dict(
            mmkdml=__version__, torch=torch.__version__, python=platform.python_version()
        ),
    )
