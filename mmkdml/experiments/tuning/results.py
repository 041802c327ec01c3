"""Results of a search: table of trials, best config and figure."""

from __future__ import annotations

import math
import os
import pprint
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from optuna import Study
from optuna.trial import FixedTrial, FrozenTrial, TrialState

from mmkdml.apis import load_config
from mmkdml.apis.output_folder import OutputFolder
from mmkdml.console import get_console
from mmkdml.evaluation import csv_text
from mmkdml.experiments.tuning.space import SearchSpace, flat
from mmkdml.experiments.tuning.ternary import draw_landscape

TABLE = 'trials.csv'
PICTURE = 'landscape.png'
ERROR = 'error'  # user attribute of a trial


def trial_table(trials: Sequence[FrozenTrial], space: SearchSpace) -> pd.DataFrame:
    """Build a table with one row for each trial.

    Returns:
        Columns ``trial, state, value``, the weights ``alpha_1, alpha_2, ...``, ``lr`` and
        ``temperature`` if they are searched, ``validations``, ``seconds`` and ``error``. ``value``
        is the best validation score of a complete trial, and the last one of a pruned trial.
    """
    rows = [
        dict(
            trial=trial.number,
            state=trial.state.name.lower(),
            value=trial.value,
            **flat(tried_options(trial, space)),
            validations=len(trial.intermediate_values),
            seconds=None if trial.duration is None else max(0.0, trial.duration.total_seconds()),
            error=trial.user_attrs.get(ERROR) if trial.state == TrialState.FAIL else None,
        )
        for trial in trials
    ]
    table = pd.DataFrame(rows)
    last = ['validations', 'seconds', 'error']
    return table[[*table.columns.drop(last), *last]]


def tried_options(trial: FrozenTrial, space: SearchSpace) -> dict[str, Any]:
    """Return the settings that a trial tried, by dotted key.

    Empty if the trial ended before all its parameters were suggested. The settings are computed
    from the parameters, so a manipulated database cannot put code into the best config.

    Raises:
        ValueError: If the parameters of a complete trial are not from this space.
    """
    try:
        return space.options(FixedTrial(trial.params))
    except (ValueError, TypeError) as error:
        if trial.state != TrialState.COMPLETE:
            return {}
        raise ValueError(
            f'Invalid trial {trial.number} in the database: expected parameters of this search, '
            f'got {trial.params}. Search in another folder or database'
        ) from error


def write_results(
    study: Study,
    trials: Sequence[FrozenTrial],
    space: SearchSpace,
    metric: str,
    path: Path,
    options: Mapping[str, Any],
    out: Path,
) -> list[Path]:
    """Write the table of trials, the best config and the figure to the folder ``out``.

    If all complete trials have the same score, no weights are better than others: only the table is
    written, an earlier best config and figure are removed, and a warning is logged.

    ``study`` has a complete trial; ``options`` are the user's changes to the config file ``path``.

    Returns:
        The written files.
    """
    best = study.best_trial
    table = trial_table(trials, space)
    outputs = OutputFolder(out)
    names = result_names(path)
    if note := no_best(trials, metric):
        with outputs.writing(TABLE) as part:
            part.write_bytes(csv_text(table).encode())
        for name in names:
            if name != TABLE:
                outputs.remove(name)
        get_console().line(f'warning: {note}', 'yellow')
        return [out / TABLE]
    picture = BytesIO()
    draw_landscape(table, metric, best.number).savefig(picture, format='png', dpi=150)
    complete = sum(trial.state == TrialState.COMPLETE for trial in trials)
    title = (
        f'{path.name}, best of {complete} complete trials: {metric} {best.value:.4g} in trial '
        f'{best.number}, validation.'
    )
    config = derived_config(path, {**options, **tried_options(best, space)}, out, title)
    contents = (csv_text(table).encode(), config.encode(), picture.getvalue())
    for name, content in zip(names, contents, strict=True):
        with outputs.writing(name) as part:
            part.write_bytes(content)
    return [out / name for name in names]


def no_best(trials: Sequence[FrozenTrial], metric: str) -> str:
    """Return why no trial is the best; an empty string if one is.

    That is so if all complete trials have the same score, which includes a single one with 0.
    """
    scores = [float(trial.value or 0) for trial in trials if trial.state == TrialState.COMPLETE]
    if len(set(scores)) > 1 or (len(scores) == 1 and scores[0] != 0):
        return ''
    return (
        f'{metric} is {scores[0]:.4g} in all {len(scores)} complete trials, so no weights are '
        'better than others and no best config is written. Train longer (--epochs), or use '
        'another metric (default_hooks.checkpoint.save_best)'
    )


def result_names(path: Path) -> tuple[str, ...]:
    """Return the names of the files that :func:`write_results` writes for a config."""
    return TABLE, f'{path.stem}_tuned.py', PICTURE


def derived_config(path: Path, options: Mapping[str, Any], folder: Path, title: str) -> str:
    """Return the text of a config file with all settings of another config, and some changed.

    The file inherits and imports nothing, so it can be moved to any folder or machine. Unlike
    ``Config.dump``, the order of settings is kept, because it is the order in which members of a
    classroom are built.

    Args:
        path: Config file to start from, of any format.
        options: Changed settings by dotted key.
        folder: Folder of the new file; ``path`` is relative to it in a comment.
        title: Docstring of the new file.
    """
    config = load_config(path, options).to_dict()  # with names instead of classes
    config.pop('work_dir', None)  # set by load_config; a new run uses the name of the new file
    printer = _ConfigPrinter(width=100, sort_dicts=False)
    lines = [
        repr(title),
        '',
        f'# All settings of {os.path.relpath(path.resolve(), folder.resolve())!r}. Changes:',
        *(f'#   {key!r}: {value!r}' for key, value in options.items()),
        '',
        *(f'{key} = {printer.pformat(value)}' for key, value in config.items()),
    ]
    return '\n'.join(lines) + '\n'


class _ConfigPrinter(pprint.PrettyPrinter):
    """Formats NaN and infinity as Python expressions."""

    def format(self, value: Any, *args: Any) -> tuple[str, bool, bool]:
        if isinstance(value, float) and not math.isfinite(value):
            return f'float({str(value)!r})', True, False
        return super().format(value, *args)


def last_error(trials: Sequence[FrozenTrial]) -> str:
    """Describe the failure of the last trial that failed, or say that all were pruned."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    if not failed:
        return 'All were pruned'
    error = failed[-1].user_attrs.get(ERROR, 'its process was killed')
    return f'Trial {failed[-1].number}: {error}'
