"""Figures of a suite: learning curves and gradient ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import cycle, product

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mmkdml.experiments.report.labels import mode_label
from mmkdml.figures import PALETTE, SCREEN, figure_style, wrap
from mmkdml.names import ENSEMBLE, PLAIN
from mmkdml.statistics.records import DONE, RunRecord, SuiteRecord

LINES = [(color, dashes) for dashes, color in product(('-', '--', ':', '-.'), PALETTE)]
BALANCE = 'gradient_ratio/'
COLUMNS = 3
# Last parts of logged keys, if they differ from the measure
_KEYS = {'AP': 'bbox_mAP', 'AP50': 'bbox_mAP_50'}


def validation_keys(record: SuiteRecord) -> list[tuple[str, ...]]:
    """Return the keys of the logged validation metrics.

    Returns:
        For each metric, the keys of the ensemble and of a single network, e.g.
        ``[('ensemble/foreground/IoU', 'model/foreground/IoU')]``. If measures of the suite's tables
        were logged, only these, in the order of the measures.
    """
    logged = dict.fromkeys(key for run in record.runs for key in run.curve_keys)
    metrics = dict.fromkeys(
        key.partition('/')[2] for key in logged if key.startswith((f'{ENSEMBLE}/', f'{PLAIN}/'))
    )
    measures = [_KEYS.get(measure, measure) for measure in record.measures]
    used = dict.fromkeys(
        metric for measure in measures for metric in metrics if measure in metric.split('/')
    )
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


@figure_style()
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
        mode = mode_label(run.mode)
        panel = panels.setdefault(f'{variant}: {mode}' if variant else mode, {})
        panel.setdefault(name, []).append(run)
    figure, grid = _panel_grid(
        list(panels), label, same_scale, max(map(len, panels.values()), default=0)
    )
    for axes, runs in zip(grid, panels.values(), strict=True):
        _draw_panel(axes, runs, keys)
    return figure


def _panel_grid(
    titles: Sequence[str], label: str, same_scale: bool, entries: int
) -> tuple[Figure, list[Axes]]:
    """Create a figure with one panel per title, with epochs on the horizontal axis.

    Below each panel there is space for a legend of ``entries`` lines.
    """
    columns = max(1, min(COLUMNS, len(titles)))
    rows = max(1, math.ceil(len(titles) / columns))
    figure = Figure(figsize=(SCREEN, (2.3 + 0.16 * entries) * rows))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=same_scale)
    for axes, title in zip(grid.flat, titles, strict=False):
        axes.set_title(wrap(title, SCREEN / columns - 0.8, 9, 2))
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
    axes.grid()
    if axes.lines:
        _add_legend(axes)
    else:
        axes.text(0.5, 0.5, 'not logged', ha='center', va='center', transform=axes.transAxes)


def _add_legend(axes: Axes) -> None:
    """Add a legend below the panel, where it covers no curve."""
    handles, labels = axes.get_legend_handles_labels()
    labels = [wrap(label, SCREEN / COLUMNS - 1.2, 7, 2) for label in labels]
    axes.legend(
        handles, labels, loc='upper center', bbox_to_anchor=(0.5, -0.24), fontsize=7, borderpad=0
    )


def _plot_mean(axes: Axes, curve: pd.DataFrame, color: str, dashes: str, label: str) -> None:
    marker = 'o' if len(curve) == 1 else None
    axes.plot(curve.index, curve['mean'], dashes, color=color, marker=marker, label=label)


def balance_keys(runs: Sequence[RunRecord]) -> list[str]:
    """Return the keys of the gradient ratios that :class:`mmkdml.engine.LossBalanceHook` logged."""
    logged = dict.fromkeys(key for run in runs for key in run.curve_keys)
    return [key for key in logged if key.startswith(BALANCE)]


@figure_style()
def draw_balance(by_name: Mapping[str, Sequence[RunRecord]]) -> Figure:
    """Draw the gradient norm of each transfer relative to the supervised losses, a panel per run.

    All runs must have :func:`balance_keys`.
    """
    most = max(len(balance_keys(runs)) for runs in by_name.values())
    figure, grid = _panel_grid(list(by_name), 'gradient norm / supervised', True, most)
    for axes, runs in zip(grid, by_name.values(), strict=True):
        for (color, dashes), key in zip(cycle(LINES), balance_keys(runs), strict=False):
            label = key.removeprefix(BALANCE)
            _plot_mean(axes, summarize_curves(runs, [key]), color, dashes, label)
        axes.set_yscale('log')
        axes.yaxis.set_major_formatter('{x:g}')  # the default is math, which is not parsed
        axes.axhline(1, color='gray', linewidth=0.8)
        _add_legend(axes)
    return figure
