"""What a search leaves behind: a table of all trials, the best config, a picture."""

from __future__ import annotations

import math
import os
import pprint
import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from optuna import Study
from optuna.trial import FrozenTrial, TrialState

from mmkdml.apis import load_config
from mmkdml.apis.output_folder import OutputFolder
from mmkdml.evaluation import csv_text
from mmkdml.experiments.tuning.space import LEARNING_RATE, TEMPERATURE, flat
from mmkdml.experiments.tuning.ternary import draw_landscape

TABLE = 'trials.csv'
PICTURE = 'landscape.png'
# User attributes of trials.
OPTIONS, ERROR = 'options', 'error'
_SEARCHED = re.compile(
    rf'model\.weights\.[a-z]+|{re.escape(LEARNING_RATE)}|{re.escape(TEMPERATURE)}'
)


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
    written = (csv_text(table).encode(), config.encode(), picture.getvalue())
    contents = dict(zip(result_names(path), written, strict=True))
    outputs = OutputFolder(out)
    for name, content in contents.items():
        with outputs.writing(name) as part:
            part.write_bytes(content)
    return [out / name for name in contents]


def result_names(path: Path) -> tuple[str, ...]:
    """Names of the files that :func:`write_results` writes for a config."""
    return TABLE, f'{path.stem}_tuned.py', PICTURE


def derived_config(path: Path, options: Mapping[str, Any], folder: Path, title: str) -> str:
    """Return the text of a config file with all settings of another one and some changes.

    It inherits and imports nothing, so it can be moved to any folder and any machine. The order of
    settings is kept, because members of a classroom are built in it.

    Args:
        path: The config file to start from, of any kind.
        options: Settings to change, by dotted key.
        folder: Where the file will be; a comment names ``path`` relative to it.
        title: Its docstring.
    """
    config = load_config(path, options).to_dict()  # classes by their paths, as a file can hold them
    config.pop('work_dir', None)  # load_config's own; without it the file's name decides
    lines = [
        repr(title),
        '',
        f'# All settings of {os.path.relpath(path.resolve(), folder.resolve())!r}; changed are',
        *(f'#   {key!r}: {value!r}' for key, value in options.items()),
        '',
        *(f'{key} = {_literal(value)}' for key, value in config.items()),
    ]
    return '\n'.join(lines) + '\n'


class _NonFinite(float):
    """NaN or infinity whose ``repr`` is a Python expression."""

    def __repr__(self) -> str:
        return '(1e999 - 1e999)' if math.isnan(self) else '1e999' if self > 0 else '-1e999'


def _literal(value: Any) -> str:
    return pprint.pformat(_writable(value), width=100, sort_dicts=False)


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _writable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_writable(one) for one in value)
    if isinstance(value, float) and not math.isfinite(value):
        return _NonFinite(value)
    return value
