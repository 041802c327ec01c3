"""What a search leaves behind: a table of all trials, the best config, a picture."""

from __future__ import annotations

import keyword
import os
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from mmengine.config import Config
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from mmkdml.apis import load_config
from mmkdml.evaluation import csv_text
from mmkdml.experiments.ternary import draw_landscape
from mmkdml.experiments.tuning_space import LEARNING_RATE, TEMPERATURE, flat

TABLE = 'trials.csv'
PICTURE = 'landscape.png'
# User attributes of trials.
OPTIONS, ERROR = 'options', 'error'
_SEARCHED = re.compile(
    rf'model\.weights\.[a-z]+|{re.escape(LEARNING_RATE)}|{re.escape(TEMPERATURE)}'
)
_CONFIG = '''\
"""{title}"""

from mmengine.config import read_base

with read_base():
    from {module} import *

{assignments}
'''


def trial_table(trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """All trials, one row each.

    Returns:
        ``trial, state, value``, the weights ``alpha_1, alpha_2, ...``, ``lr`` and ``temperature``
        if they were searched, ``validations``, ``seconds`` and ``error``. ``value`` is the metric
        of the best validation, of a pruned trial that of the last one.
    """
    rows = [
        dict(
            trial=trial.number,
            state=trial.state.name.lower(),
            value=trial.value,
            **flat(tried_options(trial)),
            validations=len(trial.intermediate_values),
            seconds=None if trial.duration is None else trial.duration.total_seconds(),
            error=trial.user_attrs.get(ERROR) if trial.state == TrialState.FAIL else None,
        )
        for trial in trials
    ]
    table = pd.DataFrame(rows)
    last = ['validations', 'seconds', 'error']
    return table[[*table.columns.drop(last), *last]]


def tried_options(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial tried, as settings by dotted key; empty if it ended before it knew.

    Raises:
        ValueError: If it holds anything but numbers for what is searched: it becomes a config, and
            configs are code.
    """
    options = trial.user_attrs.get(OPTIONS, {})  # from JSON, which has no tuples
    for key, value in options.items():
        numbers = value if isinstance(value, list) else [value]
        if not _SEARCHED.fullmatch(key) or not all(type(one) in (int, float) for one in numbers):
            raise ValueError(
                f'trial {trial.number} in the database tried {key}={value!r}, which no search '
                'does: somebody else has written there, so search in another folder or database'
            )
    return {key: tuple(v) if isinstance(v, list) else v for key, v in options.items()}


def write_results(
    study: Study,
    trials: Sequence[FrozenTrial],
    metric: str,
    path: Path,
    options: Mapping[str, Any],
    out: Path,
) -> list[Path]:
    """Writes the table, the best config and the landscape.

    Args:
        study: The study; at least one trial is complete.
        trials: Those of its trials that count.
        metric: Key of the validation metric.
        path: The config file that was searched.
        options: The user's changes to it, by dotted key.
        out: A folder.

    Returns:
        The files.
    """
    best = study.best_trial
    table = trial_table(trials)
    picture = BytesIO()
    draw_landscape(table, metric, best.number).savefig(picture, format='png', dpi=150)
    done = sum(trial.state == TrialState.COMPLETE for trial in trials)
    title = (
        f'{path.name}, best of {done} complete trials: {metric} {best.value:.4g} in trial '
        f'{best.number}, validation.'
    )
    config = derived_config(path, {**options, **tried_options(best)}, out, title)
    contents = {
        TABLE: csv_text(table).encode(),
        f'{path.stem}_tuned.py': config.encode(),
        PICTURE: picture.getvalue(),
    }
    for name, content in contents.items():
        part = out / f'.{name}.{os.getpid()}'  # workers that wait for each other end together
        part.write_bytes(content)
        os.replace(part, out / name)
    return [out / name for name in contents]


def derived_config(path: Path, options: Mapping[str, Any], folder: Path, title: str) -> str:
    """The text of a config file that inherits another and says what differs.

    Args:
        path: The config file to inherit; pure Python (``read_base``).
        options: Settings to change, by dotted key.
        folder: Where the file will be.
        title: Its docstring.

    Raises:
        ValueError: If that file cannot be inherited from there.
    """
    module = relative_module(path, folder)
    before, after = Config.fromfile(path).to_dict(), load_config(path, options).to_dict()
    lines = dict.fromkeys(_assignment(key, before, after) for key in options)
    return _CONFIG.format(title=title, module=module, assignments='\n'.join(lines))


def relative_module(path: Path, folder: Path) -> str:
    """How a config in a folder names another one, ``...kdml.r50_r18x2_v3_lgg``.

    mmengine takes each leading dot but the first as one folder up, and finds the way from the file,
    so the way must be one between real folders.

    Raises:
        ValueError: If it passes through a folder whose name is no name in Python, or the file is
            no pure Python config.
    """
    if path.suffix != '.py' or re.search(r'^_base_\s*=', path.read_text(), re.MULTILINE):
        raise ValueError(
            f'The best config inherits {path} by read_base, which takes pure Python configs only; '
            'rewrite it as one'
        )
    *up_and_down, _ = Path(os.path.relpath(path.resolve(), folder.resolve())).parts
    up = up_and_down.count('..')
    names = [*up_and_down[up:], path.stem]
    wrong = [name for name in names if not name.isidentifier() or keyword.iskeyword(name)]
    if wrong:
        raise ValueError(
            f'The best config in {folder} is to inherit {path} by an import, but {wrong[0]!r} on '
            'the way is no name that Python can import. Choose a folder for the results on this '
            'side of it, or rename it'
        )
    return '.' * (up + 1) + '.'.join(names)


def _assignment(key: str, before: Any, after: Any) -> str:
    """The statement that makes a setting what it is in ``after``.

    It stops at the first part of the key that is not in ``before``, or that holds no settings.
    """
    first, *rest = key.split('.')
    target, before, after = first, _item(before, first), _item(after, first)
    while rest and isinstance(before, (dict, list)):
        part: Any = rest.pop(0)
        part = int(part) if isinstance(before, list) else part
        target += f'[{part!r}]'
        before, after = _item(before, part), after[part]
    return f'{target} = {after!r}'


def _item(holder: Any, part: Any) -> Any:
    return holder.get(part) if isinstance(holder, dict) else holder[part]
