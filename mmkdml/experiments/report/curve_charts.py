"""Learning curves of large suites, as small charts that are fast to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from mmkdml.experiments.report.figures import validation_keys
from mmkdml.experiments.report.labels import metric_label
from mmkdml.html import Line, line_chart
from mmkdml.metric_info import metric_info
from mmkdml.statistics.records import DONE, RunRecord, SuiteRecord

_LOSS = 'loss'
_LINES = 20  # in a chart


@dataclass(frozen=True)
class Chart:
    """Curves of some runs.

    Attributes:
        group: Variant of the suite, with the numbers of the runs if it has several charts.
        title: Metric or loss that is drawn.
        svg: The chart.
        lines: Its lines, for the legend.
    """

    group: str
    title: str
    svg: Markup
    lines: Sequence[Line]


def chart_curves(
    record: SuiteRecord, by_name: Mapping[str, Sequence[RunRecord]]
) -> Iterator[Chart]:
    """Draw validation metrics and training loss, means over seeds, by variant of the suite."""
    found: dict[str, tuple[str, ...]] = {}
    for keys in validation_keys(record):
        name = keys[0].partition('/')[2]
        info = metric_info(name)
        found[f'{info.label if info else metric_label(name)}, validation'] = keys
    found['Training loss'] = (_LOSS,)
    variants: dict[str, list[str]] = {}
    for name in by_name:
        variants.setdefault(name.rpartition('/')[0], []).append(name)
    for variant, names in variants.items():
        for start in range(0, len(names), _LINES):
            part = names[start : start + _LINES]
            label = variant or 'Runs'
            group = label if len(names) <= _LINES else f'{label}, {part[0]} to {part[-1]}'
            means = {name: _means(by_name[name], list(found.values())) for name in part}
            for place, title in enumerate(found):
                lines = [
                    Line(name.rpartition('/')[2], means[name][place], style)
                    for style, name in enumerate(part)
                    if means[name][place]
                ]
                if lines:
                    yield Chart(group, title, line_chart(lines, 'epoch', title), lines)


def _means(
    runs: Sequence[RunRecord], all_keys: Sequence[Sequence[str]]
) -> list[list[tuple[float, float]]]:
    """Return points of the means over the finished seeds; NaN where a seed has no value."""
    curves = [run.logged for run in runs if run.state == DONE]
    found: list[list[tuple[float, float]]] = []
    for wanted in all_keys:
        seeds = []
        for keys, codes, epochs, values in curves:
            own = np.isin(codes, [place for place, key in enumerate(keys) if key in wanted])
            if own.any():
                # Multiple values of one epoch are averaged.
                places, inverse = np.unique(epochs[own], return_inverse=True)
                sums = np.bincount(inverse, values[own].astype(float))
                seeds.append((places, sums / np.bincount(inverse)))
        if not seeds:
            found.append([])
            continue
        epochs_of_all = np.unique(np.concatenate([places for places, _ in seeds]))
        table = np.full((len(seeds), len(epochs_of_all)), np.nan)
        for row, (places, means) in zip(table, seeds, strict=True):
            row[np.searchsorted(epochs_of_all, places)] = means
        found.append(list(zip(epochs_of_all.tolist(), table.mean(0).tolist(), strict=True)))
    return found
