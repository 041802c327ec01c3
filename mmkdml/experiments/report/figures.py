"""Figures of a suite: learning curves, gradient ratios, and claims with their intervals."""

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

# Okabe and Ito's color-blind safe palette without yellow, which is too light for lines on white.
BLUE, VERMILION, GREEN, *_ = COLORS = (
    '#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000'
)  # fmt: skip
GRAY = '#767676'
LINES = [(color, dashes) for dashes, color in product(('-', '--', ':', '-.'), COLORS)]
VERDICTS = {HOLDS: (BLUE, 'o'), OPPOSITE: (VERMILION, 'X'), UNDECIDED: (GRAY, 's')}
BALANCE = 'gradient_ratio/'
WIDTH = 9.6  # inches
COLUMNS = 3


def validation_keys(record: SuiteRecord) -> list[tuple[str, ...]]:
    """Return the keys of the logged validation metrics.

    Returns:
        For each metric, the keys of the ensemble and of a single network, e.g.
        ``[('ensemble/foreground/IoU', 'model/foreground/IoU')]``. If measures of the suite's tables
        were logged, only these.
    """
    logged = dict.fromkeys(key for run in record.runs for key in run.curves['key'].unique())
    metrics = dict.fromkeys(
        key.partition('/')[2] for key in logged if key.startswith((f'{ENSEMBLE}/', f'{PLAIN}/'))
    )
    used = [metric for metric in metrics if set(metric.split('/')) & set(record.measures)]
    return [(f'{ENSEMBLE}/{metric}', f'{PLAIN}/{metric}') for metric in used or metrics]


def summarize_curves(runs: Sequence[RunRecord], keys: Sequence[str]) -> pd.DataFrame:
    """Compute mean and range of a curve over the finished seeds.

    Args:
        runs: Seeds of one run.
        keys: Keys of the curve; each run has at most one of them.

    Returns:
        Columns ``mean``, ``low`` and ``high``, in the unit of the curve, indexed by epoch. Multiple
        values of one epoch are averaged first. NaN if the value of any seed is missing or NaN, so
        that diverged seeds are not hidden.
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


def draw_curves(record: SuiteRecord, keys: Sequence[str], label: str, same_scale: bool) -> Figure:
    """Draw a curve for each run: mean over its seeds, with a band from minimum to maximum.

    Each mode of each variant has its own panel, so that a figure of a dozen runs is readable.

    Args:
        record: The suite.
        keys: Keys of the curve, see :func:`summarize_curves`.
        label: Label of the vertical axis, with its unit.
        same_scale: Whether all panels share the scale of the vertical axis.
    """
    panels: dict[str, dict[str, list[RunRecord]]] = {}
    for run in record.runs:
        variant, _, name = run.name.rpartition('/')
        panel = panels.setdefault(f'{variant}: {run.mode}' if variant else run.mode, {})
        panel.setdefault(name, []).append(run)
    figure, grid = _panel_grid(list(panels), label, same_scale)
    for axes, runs in zip(grid, panels.values(), strict=True):
        _draw_panel(axes, runs, keys)
    return figure


def _panel_grid(titles: Sequence[str], label: str, same_scale: bool) -> tuple[Figure, list[Axes]]:
    """Create a figure with one panel per title, with epochs on the horizontal axis."""
    columns = max(1, min(COLUMNS, len(titles)))
    rows = max(1, math.ceil(len(titles) / columns))
    figure = Figure(figsize=(WIDTH, 2.6 * rows), layout='constrained')
    grid = figure.subplots(rows, columns, squeeze=False, sharey=same_scale)
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(title, fontsize=10)
        axes.set_xlabel('epoch')
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if same_scale:
            axes.tick_params(labelleft=True)
    for axes in grid.flat[len(titles) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel(label)
    return figure, list(grid.flat[: len(titles)])


def _draw_panel(axes: Axes, panel: dict[str, list[RunRecord]], keys: Sequence[str]) -> None:
    for index, (name, runs) in enumerate(panel.items()):
        curve = summarize_curves(runs, keys)
        done = sum(run.state == DONE for run in runs)
        if curve.empty:
            continue
        # Unfinished runs count, too, so that a style has the same color in all panels.
        color, dashes = LINES[index % len(LINES)]
        label = name if done == len(runs) else f'{name} ({done} of {len(runs)} seeds)'
        _plot_mean(axes, curve, color, dashes, label)
        axes.fill_between(
            curve.index, curve['low'], curve['high'], color=color, alpha=0.18, linewidth=0
        )
    axes.grid(alpha=0.3, linewidth=0.5)
    if axes.lines:
        axes.legend(fontsize=7, framealpha=0.8)
    else:
        axes.text(0.5, 0.5, 'not logged', ha='center', va='center', transform=axes.transAxes)


def _plot_mean(axes: Axes, curve: pd.DataFrame, color: str, dashes: str, label: str) -> None:
    marker = 'o' if len(curve) == 1 else None
    axes.plot(
        curve.index, curve['mean'], dashes, color=color, linewidth=1.4, marker=marker, label=label
    )


def balance_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Return the keys of the gradient ratios that :class:`mmkdml.engine.LossBalanceHook` logged."""
    logged = dict.fromkeys(key for run in runs for key in run.curves['key'].unique())
    return [key for key in logged if key.startswith(BALANCE)]


def draw_balance(by_name: Mapping[str, Sequence[RunRecord]]) -> Figure:
    """Draw the gradient norm of each transfer relative to the supervised losses, a panel per run.

    All runs must have :func:`balance_keys`.
    """
    figure, grid = _panel_grid(list(by_name), 'gradient norm / supervised', same_scale=True)
    for axes, runs in zip(grid, by_name.values(), strict=True):
        for (color, dashes), key in zip(cycle(LINES), balance_keys(runs), strict=False):
            label = key.removeprefix(BALANCE)
            _plot_mean(axes, summarize_curves(runs, [key]), color, dashes, label)
        axes.set_yscale('log')
        axes.axhline(1, color=GRAY, linewidth=0.8)
        axes.legend(fontsize=6, framealpha=0.8)
    return figure


def draw_claims(results: Sequence[ClaimResult]) -> Figure:
    """Draw a forest plot of claims: differences with their intervals, grouped by family.

    Args:
        results: Claims about one measure, see :func:`mmkdml.experiments.evaluate_claims`.

    Raises:
        ValueError: If the claims are about several measures or there are none.
    """
    measures = {result.measure for result in results}
    if len(measures) != 1:
        raise ValueError(
            f'Invalid claims: expected one measure, got {sorted(measures)}. Draw each measure '
            'separately'
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
    labels = [row.text if isinstance(row, ClaimResult) else row for row in rows]
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight('normal' if isinstance(row, ClaimResult) else 'bold')
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis='y', length=0)
    axes.grid(axis='x', alpha=0.3, linewidth=0.5)
    axes.set_xlabel(f'difference in {measures.pop()} (percentage points; > 0 supports the claim)')
    handles = [
        Line2D([], [], color=color, marker=marker, label=verdict)
        for verdict, (color, marker) in VERDICTS.items()
    ]
    figure.legend(handles=handles, loc='outside upper right', ncols=3, fontsize=8, frameon=False)
    return figure


def _draw_claim(axes: Axes, place: int, result: ClaimResult) -> None:
    found = result.estimate
    if result.verdict not in VERDICTS:
        axes.text(0, place, f' {NOT_COMPUTABLE}', va='center', fontsize=7, color=GRAY)
        return
    color, marker = VERDICTS[result.verdict]
    axes.plot(result.simultaneous, [place, place], color=color, linewidth=0.8)
    axes.plot([found.low, found.high], [place, place], color=color, linewidth=2.4)
    axes.plot([found.value], [place], color=color, marker=marker, markersize=5)


def to_data_uri(figure: Figure) -> str:
    """Convert a figure to a reproducible SVG ``data:`` URI."""
    file = io.BytesIO()
    with rc_context({'svg.hashsalt': 'mmkdml', 'svg.fonttype': 'none'}):
        figure.savefig(file, format='svg', metadata={'Date': None})
    return _data_uri('svg+xml', file.getvalue())


def png_data_uri(path: Path) -> str:
    """Convert a PNG file to a ``data:`` URI."""
    return _data_uri('png', path.read_bytes())


def _data_uri(kind: str, content: bytes) -> str:
    return f'data:image/{kind};base64,{b64encode(content).decode()}'
