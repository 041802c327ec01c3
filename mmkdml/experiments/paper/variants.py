"""Suite runs of the paper: all modes and styles, and the methods that it compares with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mmkdml.experiments.paper.values import read_data
from mmkdml.modes import LETTERS, MODES, STYLES, letters_of
from mmkdml.statistics.measures import DETECTION

# Plain KD, then the methods of Table 10 in the paper's order.
COMPARED = {
    'classification': ('kd', 'fitnet', 'srrl', 'at', 'sp', 'vid', 'simkd', 'semckd'),
    'segmentation': ('kd', 'fitnet', 'at', 'skd', 'ifvd', 'cwd', 'dsd', 'emkd'),
}


def comparison_runs(
    config: str, task: str, teacher: str, methods: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Build the runs of compared methods, named by method.

    Args:
        config: Config file with the placeholder ``{method}``, e.g.
            ``'configs/comparisons/{method}_r50_r18_lgg.py'``.
        task: ``'classification'``, ``'segmentation'`` or ``'detection'``.
        teacher: Name of the run that trains the teacher.
        methods: Names of methods with a config. Default: plain KD and the methods in the paper's
            Table 10; required for detection, which is not in the paper.

    Raises:
        ValueError: If the task is unknown, or methods for detection are missing.
    """
    if task not in (*COMPARED, DETECTION):
        expected = ', '.join((*COMPARED, DETECTION))
        raise ValueError(f'Invalid task: expected one of {expected}, got {task!r}')
    if methods is None and task == DETECTION:
        raise ValueError('Invalid methods: expected names for detection, got None')
    return [
        dict(name=method, config=config.format(method=method), teacher=teacher)
        for method in (COMPARED[task] if methods is None else methods)
    ]


def variant_runs(
    config: str,
    teacher: str,
    weights_of: str | Mapping[str, Mapping[str, Any]] | None = None,
    modes: tuple[str, ...] = MODES,
    styles: tuple[str, ...] = STYLES,
) -> list[dict[str, Any]]:
    """Build runs named ``<mode>_<style>``, ordered by mode, then style.

    Args:
        config: Config file, with the placeholders ``{mode}`` and ``{style}`` if there is one file
            for each, e.g. ``'configs/{mode}/r50_r18x2_{style}_lgg.py'``.
        teacher: Name of the run that trains the teacher of the offline mode ``kd_off``.
        weights_of: Table of the paper, e.g. ``'Table 4'``, or the weights of each mode, such as
            ``dict(ml=dict(alpha=(0.6, 0.6), gamma=(0.4, 0.4)), ...)``, if all runs share one
            config. Each run then sets its mode, its style and these weights.
        modes: Modes to include.
        styles: Styles to include.

    Raises:
        ValueError: If the table has no weights.
    """
    return [
        dict(
            name=f'{mode}_{style}',
            config=config.format(mode=mode, style=style),
            teacher=teacher if mode == 'kd_off' else None,
            options={} if weights_of is None else _options(weights_of, mode, style),
        )
        for mode in modes
        for style in styles
    ]


def _options(table: str | Mapping[str, Any], mode: str, style: str) -> dict[str, Any]:
    weights = paper_weights(table, mode, style) if isinstance(table, str) else table[mode]
    letters = {f'model.weights.{letter}': weights.get(letter) for letter in LETTERS}
    return {'model.mode': mode, 'model.style': style, **letters}


def paper_weights(table: str, mode: str, style: str) -> dict[str, tuple[float, float]]:
    """Return the loss weights of both students that the paper prints for a mode and style.

    Args:
        table: ``'Table <n>'``, n = 3, 4, 8, 9, 14 or 15.
        mode: ``ml``, ``kd_off``, ``kd_on`` or ``kdml``.
        style: ``v1``, ``v2`` or ``v3``.

    Returns:
        Weights of both students by name (``alpha``, ``beta``, ``gamma``), if the mode has them.

    Raises:
        ValueError: If the table has no weights for them.
    """
    rows = read_data('reference_weights.csv')
    for row in rows:
        if (row['table'], row['mode'], row['style']) == (table, mode, style):
            return {
                letter: (float(row[f'{letter}_1']), float(row[f'{letter}_2']))
                for letter in letters_of(mode)
            }
    tables = ', '.join(dict.fromkeys(row['table'] for row in rows))
    raise ValueError(
        f'Invalid table for the weights of {mode} {style}: expected one of {tables}, got {table!r}'
    )
