"""History of a run, read from its folder: calls, losses, validations and tests.

Files of interrupted and of older runs are incomplete; whatever is missing is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmkdml.apis.run.comparison import recorded_identity
from mmkdml.apis.run.results import RESULTS_JSON, load_results
from mmkdml.files import is_regular
from mmkdml.names import ALL_STUDENTS, ENSEMBLE, PLAIN

_TRANSFER = re.compile(r'(?P<learner>[^.]+)\.loss_from_(?P<source>.+)\.(?P<knowledge>[^.]+)')
_MEMBER = re.compile(r'(?P<member>[^./]+)\.(?:[^/]*\.)?[^./]*loss[^./]*')
_PLACES = ('epoch', 'iter', 'step')
Point = tuple[float, float]


@dataclass
class Evaluation:
    """Metrics of a validation or a test.

    Attributes:
        split: ``'val'`` or ``'test'``.
        kind: ``'best'``, ``'last'`` or ``'other'`` checkpoint of a test, if known.
        epoch: Finished epochs, or None.
        iter: Finished iterations, or None.
        checkpoint: Name of the tested file, or None.
        values: Values by member and measure; NaN if undefined.
        cases: Number of evaluated samples, or None.
        changes: Keys of settings that differ from those of the run.
    """

    split: str
    kind: str | None = None
    epoch: int | None = None
    iter: int | None = None
    checkpoint: str | None = None
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    cases: int | None = None
    changes: list[str] = field(default_factory=list)


@dataclass
class History:
    """Content of a run's folder.

    Attributes:
        identity: Content of ``identity.json``.
        calls: Records of trainings and tests in order; see :mod:`mmkdml.apis.summary.record`.
        losses: Points (epochs or iterations, value) of each logged training value.
        by_epoch: Whether points and validations are counted in epochs.
        evaluations: Validations and tests in order.
        trainings: Number of calls that trained.
        seed: Random seed, or None.
        digests: SHA-256 of the split file of each split that was evaluated.
    """

    identity: Mapping[str, Any]
    calls: list[dict[str, Any]]
    losses: dict[str, list[Point]]
    by_epoch: bool
    evaluations: list[Evaluation]
    trainings: int
    seed: int | None = None
    digests: dict[str, str] = field(default_factory=dict)

    @property
    def members(self) -> list[str]:
        """Names of the members, the teacher first; ``model`` for a single network."""
        recorded = [one for call in self.calls for one in call.get('members') or ()]
        names = [one['name'] for one in recorded if isinstance(one, dict) and 'name' in one]
        return list(dict.fromkeys(names)) or members_of_keys(self.losses)

    @property
    def last_training(self) -> dict[str, Any]:
        """Record of the last training; empty if there is none."""
        return next((one for one in reversed(self.calls) if one.get('kind') == 'train'), {})


def read_history(run: Path) -> History:
    """Read the files of a run's folder, of which none is required."""
    calls = [
        one for path in sorted(run.glob('*/call_*.json')) if (one := read_json(path)) is not None
    ]
    calls.sort(key=lambda one: str(one.get('start', '')))
    logs = [
        list(_lines(path))
        for path in sorted(run.glob('*/vis_data/scalars.json'))
        if is_regular(path)
    ]
    trainings = [lines for lines in logs if any('loss' in one for one in lines)]
    losses, by_epoch = _losses(trainings)
    identity = recorded_identity(run)
    seed, digests = None, {}
    try:
        results = load_results(run / RESULTS_JSON)
        evaluations = [_evaluation(one) for one in results.evaluations]
        seed = results.run.get('seed')
        digests = {one['split']: _digest(one['data']) for one in results.evaluations}
    except (OSError, ValueError):
        evaluations = list(_old_evaluations(run, trainings, members_of_keys(losses), by_epoch))
    recorded = sum(one.get('kind') == 'train' for one in calls)
    return History(
        identity,
        calls,
        losses,
        by_epoch,
        evaluations,
        max(recorded, len(trainings)),
        seed,
        {split: digest for split, digest in digests.items() if digest},
    )


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the dict in a JSON file; None if there is none."""
    try:
        content = json.loads(path.read_text(encoding='utf-8')) if is_regular(path) else None
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def match_transfer(key: str) -> re.Match[str] | None:
    """Match the key of a transfer's loss, with ``learner``, ``source`` and ``knowledge``."""
    return _TRANSFER.fullmatch(key)


def learner_of(key: str) -> str | None:
    """Return the member whose loss a logged value is; None if it is no loss of a member."""
    if found := match_transfer(key):
        return found['learner']
    found = _MEMBER.fullmatch(key)
    return found['member'] if found else None


def members_of_keys(keys: Mapping[str, Any]) -> list[str]:
    """Return the members that logged losses name, those that teach first."""
    transfers = [found for key in keys if (found := match_transfer(key))]
    if not transfers:
        return [PLAIN]
    learners = {found['learner'] for found in transfers}
    names = [*(found['source'] for found in transfers), *filter(None, map(learner_of, keys))]
    return sorted(dict.fromkeys(names), key=lambda name: (name in learners, name))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):  # truncated
            continue
        if isinstance(values, dict):
            yield values


def _losses(trainings: list[list[dict[str, Any]]]) -> tuple[dict[str, list[Point]], bool]:
    """Join the logs of trainings; steps that were repeated after an interruption count once."""
    steps: dict[int, dict[str, Any]] = {}
    for lines in trainings:
        trained = [one for one in lines if 'loss' in one and _is_count(one.get('iter'))]
        if trained:
            first = min(one['iter'] for one in trained)
            steps = {key: one for key, one in steps.items() if key < first}
            steps |= {one['iter']: one for one in trained}
    epochs = [one['epoch'] for one in steps.values() if _is_count(one.get('epoch'))]
    by_epoch = bool(steps) and len(epochs) == len(steps)
    length = 1.0
    if by_epoch:  # iterations per epoch
        length = max(1, *(math.ceil(key / max(1, one['epoch'])) for key, one in steps.items()))
    losses: dict[str, list[Point]] = {}
    for step, values in sorted(steps.items()):
        for key, value in values.items():
            if key not in _PLACES and isinstance(value, int | float | None):
                number = math.nan if value is None else float(value)
                losses.setdefault(key, []).append((step / length, number))
    return losses, by_epoch


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 53


def _digest(data: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the data of an evaluation, empty if there are several."""
    known = [one for one in data.values() if isinstance(one, str)]
    return known[0] if len(known) == 1 else ''


def _evaluation(content: Mapping[str, Any]) -> Evaluation:
    keys = ('split', 'kind', 'epoch', 'iter', 'checkpoint', 'cases')
    one = Evaluation(**{key: content[key] for key in keys}, changes=list(content['changes']))
    for value in content['values']:
        number = math.nan if value['value'] is None else float(value['value'])
        one.values.setdefault(value['member'], {})[value['measure']] = number
    return one


def _old_evaluations(
    run: Path, trainings: list[list[dict[str, Any]]], members: list[str], by_epoch: bool
) -> Iterator[Evaluation]:
    """Read the evaluations of a run without ``results.json`` from its logs."""
    steps: dict[int, Evaluation] = {}
    for lines in trainings:
        for one in lines:
            values, step = _by_member(one, members), one.get('step')
            if 'loss' not in one and values and isinstance(step, int):
                epoch, iteration = (step, None) if by_epoch else (None, step)
                steps[step] = Evaluation('val', epoch=epoch, iter=iteration, values=values)
    yield from (one for _, one in sorted(steps.items()))
    for path in sorted(run.glob('*/*.json')):
        if path.stem == path.parent.name and (values := _by_member(read_json(path) or {}, members)):
            yield Evaluation('test', values=values)


def _by_member(metrics: Mapping[str, Any], members: list[str]) -> dict[str, dict[str, float]]:
    values: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        first, slash, rest = key.partition('/')
        if not slash or not isinstance(value, int | float | None):
            continue
        named = first in (*members, ENSEMBLE, PLAIN, ALL_STUDENTS)
        member, measure = (first, rest) if named else (PLAIN, key)
        values.setdefault(member, {})[measure] = math.nan if value is None else float(value)
    return values
