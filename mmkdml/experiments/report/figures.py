"""Pictures of a suite: learning curves, and claims with their intervals."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mmkdml.experiments.paper.claims import (
    FAMILIES,
    HOLDS,
    NOT_COMPUTABLE,
    OPPOSITE,
    UNDECIDED,
    ClaimResult,
)
from mmkdml.names import ENSEMBLE, PLAIN
from mmkdml.statistics.records import DONE, RunRecord, SuiteRecord

# Okabe and Ito's colours, told apart with every kind of colour vision, without their yellow, which
# is too light for a line on white.
BLUE, VERMILION, GREEN, *_ = COLOURS = (
    '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000'
)  # fmt: skip
GREY = '#767676'
LINES = [(colour, dashes) for dashes, colour in product(('-', '--', ':', '-.'), COLOURS)]
# Told apart by shape as well as by colour.
VERDICTS = {HOLDS: (BLUE, 'o'), OPPOSITE: (VERMILION, 'X'), UNDECIDED: (GREY, 's')}
BALANCE = 'gradient_ratio/'
WIDTH = 9.6  # inches
COLUMNS = 3


def validation_keys(record: SuiteRecord) -> list[tuple[str, ...]]:
    """What the validations of a suite measured.

    Returns:
        For each metric its keys in the curves, the ensemble's and a single network's:
        ``[('ensemble/foreground/IoU', 'model/foreground/IoU')]``. Those that the suite's tables
        show if there are any, otherwise all.
    """
    logged = dict.fromkeys(key for run in record.runs for key in run.curves['key'].unique())
    metrics = dict.fromkeys(
        key.partition('/')[2] for key in logged if key.startswith((f'{ENSEMBLE}/', f'{PLAIN}/'))
    )
    shown = [metric for metric in metrics if set(metric.split('/')) & set(record.measures)]
    return [(f'{ENSEMBLE}/{metric}', f'{PLAIN}/{metric}') for metric in shown or metrics]


def summarise_curves(runs: Sequence[RunRecord], keys: Sequence[str]) -> pd.DataFrame:
    """Mean and range of one curve over the seeds that are done.

    Args:
        runs: The seeds of one run.
        keys: Names of the curve; each run has at most one of them.

    Returns:
        ``mean``, ``low`` and ``high`` (columns, in the curve's unit) by epoch (index), with
        several values of one epoch averaged first. NaN where one seed has no value or NaN: a seed
        that diverged is not averaged away.
    """
    curves = {
        run.seed: run.curves[run.curves['key'].isin(keys)]
        .groupby('epoch')['value']
        .agg(lambda values: values.mean(skipna=False))
        for run in runs
        if run.state == DONE
    }
    table = pd.DataFrame({seed: curve for seed, curve in curves.items() if len(curve)}, dtype=float)
    return pd.DataFrame(
        {
            'mean': table.mean(axis=1, skipna=False),
            'low': table.min(axis=1, skipna=False),
            'high': table.max(axis=1, skipna=False),
        }
    ).sort_index()


def draw_curves(record: SuiteRecord, keys: Sequence[str], label: str, one_scale: bool) -> Figure:
    """Draws a curve of every run: the mean over its seeds in a band from lowest to highest.

    Each mode (of each variant) has a panel of its own, so that a dozen runs stay readable.

    Args:
        record: The suite.
        keys: Names of the curve, see :func:`summarise_curves`.
        label: Name and unit of the vertical axis.
        one_scale: Whether all panels share it; for what can be compared between modes.
    """
    panels: dict[str, dict[str, list[RunRecord]]] = {}
    for run in record.runs:
        variant, _, name = run.name.rpartition('/')
        panel = panels.setdefault(f'{variant}: {run.mode}' if variant else run.mode, {})
        panel.setdefault(name, []).append(run)
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, math.ceil(len(panels) / columns))
    figure = Figure(figsize=(WIDTH, 2.6 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False, sharey=one_scale)
    for axes, (title, runs) in zip(grid.flat, panels.items(), strict=False):
        _draw_panel(axes, runs, keys)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel('epoch')
        if one_scale:
            axes.tick_params(labelleft=True)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    return figure


def _draw_panel(axes: Axes, panel: dict[str, list[RunRecord]], keys: Sequence[str]) -> None:
    for index, (name, runs) in enumerate(panel.items()):
        curve = summarise_curves(runs, keys)
        done = sum(run.state == DONE for run in runs)
        if curve.empty:
            continue
        # The place among all runs, done or not: one style has one colour in every panel.
        colour, dashes = LINES[index % len(LINES)]
        axes.plot(
            curve.index,
            curve['mean'],
            color=colour,
            linestyle=dashes,
            linewidth=1.4,
            marker='o' if len(curve) == 1 else None,
            label=name if done == len(runs) else f'{name} ({done} of {len(runs)} seeds)',
        )
        axes.fill_between(
            curve.index, curve['low'], curve['high'], color=colour, alpha=0.18, linewidth=0
        )
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.grid(alpha=0.3, linewidth=0.5)
    if axes.lines:
        axes.legend(fontsize=7, framealpha=0.8)
    else:
        axes.text(0.5, 0.5, 'not logged', ha='center', va='center', transform=axes.transAxes)


def balance_keys(runs: Sequence[RunRecord]) -> list[str]:
    """What :class:`mmkdml.engine.LossBalanceHook` logged of the transfers of a run."""
    logged = dict.fromkeys(key for run in runs for key in run.curves['key'].unique())
    return [key for key in logged if key.startswith(BALANCE)]


def draw_balance(by_name: Mapping[str, Sequence[RunRecord]]) -> Figure:
    """Draws how hard each transfer pulls at its learner, by epoch, with a panel for each run.

    Args:
        by_name: The seeds of each run that has :func:`balance_keys`.
    """
    columns = max(1, min(COLUMNS, len(by_name)))
    rows = max(1, math.ceil(len(by_name) / columns))
    figure = Figure(figsize=(WIDTH, 2.6 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes, (name, runs) in zip(grid.flat, by_name.items(), strict=False):
        for (colour, dashes), key in zip(cycle(LINES), balance_keys(runs), strict=False):
            curve = summarise_curves(runs, [key])
            axes.plot(
                curve.index,
                curve['mean'],
                color=colour,
                linestyle=dashes,
                marker='o' if len(curve) == 1 else None,
                label=key.removeprefix(BALANCE),
            )
        axes.set(title=name, xlabel='epoch', yscale='log')
        axes.axhline(1, color=GREY, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.tick_params(labelleft=True)
        axes.legend(fontsize=6, framealpha=0.8)
    for axes in grid.flat[len(by_name) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel('gradient / supervised')
    return figure


def draw_claims(results: Sequence[ClaimResult]) -> Figure:
    """Draws a forest plot: each claim's difference with its intervals, by family.

    Args:
        results: Claims about one measure, see :func:`mmkdml.experiments.evaluate_claims`.

    Raises:
        ValueError: If there are none, or they are about several measures.
    """
    measures = {result.measure for result in results}
    if len(measures) != 1:
        raise ValueError(
            f'expected claims about one measure, got {len(results)} about {sorted(measures)}: '
            'draw each measure by itself'
        )
    rows: list[str | ClaimResult] = []
    for family, title in FAMILIES.items():
        members = [result for result in results if result.family == family]
        rows += [title, *members] if members else []
    figure = Figure(figsize=(WIDTH, 0.21 * len(rows) + 1.1), layout='constrained')
    axes = figure.subplots()
    for place, row in enumerate(rows):
        if isinstance(row, ClaimResult):
            _draw_claim(axes, place, row)
    axes.axvline(0, color='black', linewidth=0.8, zorder=0)
    axes.set_yticks(
        range(len(rows)),
        [row.text if isinstance(row, ClaimResult) else row for row in rows],
        fontsize=8,
    )
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight('normal' if isinstance(row, ClaimResult) else 'bold')
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis='y', length=0)
    axes.grid(axis='x', alpha=0.3, linewidth=0.5)
    axes.set_xlabel(f'difference in {measures.pop()} (percentage points; above 0 speaks for it)')
    handles = [
        Line2D([], [], color=colour, marker=marker, label=verdict)
        for verdict, (colour, marker) in VERDICTS.items()
    ]
    figure.legend(handles=handles, loc='outside upper right', ncols=3, fontsize=8, frameon=False)
    return figure


def _draw_claim(axes: Axes, place: int, result: ClaimResult) -> None:
    found = result.estimate
    if result.verdict not in VERDICTS:
        axes.text(0, place, f' {NOT_COMPUTABLE}', va='center', fontsize=7, color=GREY)
        return
    colour, marker = VERDICTS[result.verdict]
    axes.plot(result.simultaneous, [place, place], color=colour, linewidth=0.8)
    axes.plot([found.low, found.high], [place, place], color=colour, linewidth=2.4)
    axes.plot([found.value], [place], color=colour, marker=marker, markersize=5)


def to_data_uri(figure: Figure) -> str:
    """A figure as an SVG picture inside a ``data:`` address; the same figure, the same text."""
    file = io.BytesIO()
    with rc_context({'svg.hashsalt': 'mmkdml', 'svg.fonttype': 'none'}):
        figure.savefig(file, format='svg', metadata={'Date': None})
    return _data_uri('svg+xml', file.getvalue())


def png_data_uri(path: Path) -> str:
    """A PNG file inside a ``data:`` address."""
    return _data_uri('png', path.read_bytes())


def _data_uri(kind: str, content: bytes) -> str:
    return f'data:image/{kind};base64,{b64encode(content).decode()}'
