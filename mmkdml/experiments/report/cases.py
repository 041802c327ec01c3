"""Cases of a suite: thumbnails of figures, and the groups of images that are hard for all runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from mmkdml.experiments.report.results import Evaluation
from mmkdml.html import image_uri
from mmkdml.metric_info import MetricInfo
from mmkdml.names import ENSEMBLE, PLAIN
from mmkdml.statistics.counts import groups_of
from mmkdml.statistics.records import RunRecord, SuiteRecord

SEVERAL = 'several runs'
_PANELS, _SHEET = 'panels', 'panels.png'
# Size in pixels and quality of thumbnails; the first that fits in the budget is used.
_SIZES = ((1200, 75), (900, 65), (640, 50), (480, 45))
_BUDGET = 1_200_000  # bytes of all thumbnails of a suite
_HARD_CASES = 20
_COLUMNS = 50  # runs in the table of hard cases


@dataclass(frozen=True)
class Thumbnail:
    """Reduced figure of a run.

    Attributes:
        path: The figure.
        run: Name of the run, or :data:`SEVERAL`.
        kind: Kind of the figure, e.g. ``'Reliability'``.
        case: Id of the image; empty if the figure is about several.
        group: Group of the image (patient, lesion).
        seed: Seed of the run, if it is about one.
        uri: The thumbnail as a ``data:`` URI.
    """

    path: Path
    run: str
    kind: str
    case: str = ''
    group: str = ''
    seed: int | None = None
    uri: str = ''

    @property
    def caption(self) -> str:
        """Kind, run, seed and case."""
        seed = '' if self.seed is None else f', seed {self.seed}'
        return f'{self.kind}: {self.run}{seed}' + (f', {self.case}' if self.case else '')


@dataclass(frozen=True)
class HardCases:
    """Groups of images with the worst values, averaged over runs.

    Attributes:
        measure: Name and unit of the values.
        runs: Names of the runs, in columns.
        rows: Group, mean over runs, and value of each run; NaN where the measure is undefined.
        total: Number of all groups.
        left_out: Number of runs that have no column.
    """

    measure: MetricInfo
    runs: Sequence[str]
    rows: Sequence[tuple[str, float, Sequence[float]]]
    total: int
    left_out: int = 0


def build_thumbnails(
    record: SuiteRecord, by_name: Mapping[str, Sequence[RunRecord]], budget: int = _BUDGET
) -> tuple[list[Thumbnail], int]:
    """Load the figures of one seed per run, reduced so that all of them fit in a budget.

    Args:
        record: The suite.
        by_name: Seeds of each run.
        budget: Maximum number of bytes.

    Returns:
        The thumbnails, and the number of figures that did not fit.
    """
    found = [
        *_figures(record.pictures, SEVERAL, {}),
        *(figure for runs in by_name.values() for figure in _figures_of_run(runs)),
    ]
    # The first figures of each run, then the second ones, and so on.
    earlier: Counter[str] = Counter()
    places = []
    for one in found:
        places.append(earlier[one.run])
        earlier[one.run] += 1
    order = [int(index) for index in np.argsort(places, kind='stable')]
    uris: dict[int, str] = {}
    for max_size, quality in _SIZES:
        uris, free = {}, budget
        for index in order:
            uri = image_uri(found[index].path, max_size, quality)
            if (free := free - len(uri)) < 0:
                break
            uris[index] = uri
        if len(uris) == len(found):
            break
    thumbnails = [replace(found[index], uri=uris[index]) for index in sorted(uris)]
    return thumbnails, len(found) - len(thumbnails)


def _figures_of_run(runs: Sequence[RunRecord]) -> Iterator[Thumbnail]:
    for run in [run for run in runs if run.pictures][:1]:
        cases = [one.cases for one in run.measured.values()][:1]
        groups = {} if not cases else dict(zip(cases[0]['id'], cases[0]['group'], strict=True))
        yield from _figures(run.pictures, run.name, groups, run.seed)


def _figures(
    pictures: Mapping[str, Path], run: str, groups: Mapping[str, str], seed: int | None = None
) -> Iterator[Thumbnail]:
    names = {PurePosixPath(name): path for name, path in pictures.items()}
    panels = [name for name in names if name.parts[0] == _PANELS]
    for name, path in names.items():
        case = name.stem.partition('_')[2]
        if name not in panels:
            yield Thumbnail(path, run, _kind(name), seed=seed)
        elif name.name != _SHEET:
            yield Thumbnail(path, run, 'Predictions', case, groups.get(case, case), seed)
        elif len(panels) == 1:  # without the single cases
            yield Thumbnail(path, run, 'Predictions', seed=seed)


def _kind(name: PurePosixPath) -> str:
    kind = name.stem.replace('_', ' ')
    if name.parent.name == _PANELS:  # of the analysis tool, named by the selection
        return f'Hard cases: {kind}'
    return 'CKA' if kind == 'cka' else kind.capitalize()


def find_hard_cases(evaluation: Evaluation, limit: int = _HARD_CASES) -> HardCases | None:
    """Return the groups with the worst mean of the first measure; None without results."""
    counts = evaluation.counts
    if not counts.by_entry:
        return None
    measure = counts.check_measure(evaluation.grid.record.measures[0])
    columns: dict[str, pd.Series] = {}
    for (run, member), by_seed in counts.by_entry.items():
        if member not in (ENSEMBLE, PLAIN):
            continue
        values = measure.values([one.for_measure(measure).by_group() for one in by_seed.values()])
        seeds = [
            pd.Series(own, groups_of(one.cases))
            for own, one in zip(values, by_seed.values(), strict=True)
        ]
        columns[run] = pd.concat(seeds, axis=1).mean(axis=1)
    table = pd.DataFrame(columns).dropna(how='all')
    worst_first = measure.info.higher_is_better is not False
    order = table.mean(axis=1).sort_values(kind='stable', ascending=worst_first)
    table = table.loc[order.index]
    shown = table.head(limit)
    means = shown.mean(axis=1)
    names = list(columns)
    if len(names) > _COLUMNS:
        best_first = table.mean().sort_values(kind='stable', ascending=not worst_first)
        names = list(best_first.index[:_COLUMNS])
    rows = [
        (str(group), float(means[group]), [float(value) for value in values])
        for group, values in shown[names].iterrows()
    ]
    return HardCases(measure.info, names, rows, len(table), len(columns) - len(names))
