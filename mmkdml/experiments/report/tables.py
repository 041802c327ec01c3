"""Result tables of suites in the form of the paper's tables, and their output formats."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import pandas as pd
from prettytable import PrettyTable, TableStyle

from mmkdml.experiments.paper.values import PERFORMANCE, table_notes
from mmkdml.experiments.report.auxiliary_metrics import NOTES, auxiliary_panels, auxiliary_values
from mmkdml.experiments.report.cells import Table, TableCell, TablePanel, TableRow
from mmkdml.experiments.report.grid import Grid, Key, Metric
from mmkdml.metric_info import PERCENT, unit_of
from mmkdml.statistics.bootstrap import Contrast, Estimate, estimate
from mmkdml.statistics.counts import Counts, Variants, count_cases, find_variants
from mmkdml.statistics.measures import DETECTION, MEASURES
from mmkdml.statistics.records import BASELINE, DONE, RunRecord, SuiteRecord

CHECKPOINT_TITLES = {'best': 'best on the validation set', 'last': 'after the last epoch'}
_LATEX = str.maketrans(
    {
        **{character: f'\\{character}' for character in '&%$#_{}'},
        **{'\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}'},
        **{'<': r'\textless{}', '>': r'\textgreater{}', '±': r'$\pm$'},
    }
)
_MARKDOWN = str.maketrans({character: f'\\{character}' for character in '\\`*_|<['})


def build_table(
    record: SuiteRecord,
    checkpoint: str,
    resamples: int = 0,
    rng: int = 0,
    counts: Counts | None = None,
    variants: Variants | None = None,
    intervals: bool = True,
) -> Table:
    """Arrange the results of a suite in the form of the paper's tables.

    There is a panel of single networks; for each variant and measure, a panel with a block of rows
    per mode (teacher, students, ensemble) and a column per style; and a panel of other runs.

    Args:
        record: The suite. Unfinished runs have no values and are listed in the notes.
        checkpoint: ``'best'`` or ``'last'``.
        resamples: See :func:`~mmkdml.statistics.bootstrap.estimate`.
        rng: See :func:`~mmkdml.statistics.bootstrap.estimate`.
        counts: Result of :func:`~mmkdml.statistics.counts.count_cases` for this checkpoint;
            computed if None.
        variants: Result of :func:`~mmkdml.statistics.counts.find_variants`; computed if None.
        intervals: Compute the intervals of the means, which only CSV contains.

    Raises:
        ValueError: See :func:`~mmkdml.statistics.counts.count_cases`,
            :func:`~mmkdml.statistics.counts.find_variants`,
            :func:`~mmkdml.statistics.bootstrap.estimate` and
            :func:`~mmkdml.experiments.paper.values.paper_value`.
    """
    grid = build_grid(record, checkpoint, resamples, rng, counts, variants, intervals)
    panels = build_panels(grid)
    title = f'{record.name}: {record.title} ({CHECKPOINT_TITLES[checkpoint]}; test set)'
    legend = 'Mean ± sample standard deviation over seeds (number of seeds).'
    notes = (legend, *explain(record, checkpoint, panels, 'In brackets'))
    return Table(record.name, title, checkpoint, panels, notes)


def build_grid(
    record: SuiteRecord,
    checkpoint: str,
    resamples: int = 0,
    rng: int = 0,
    counts: Counts | None = None,
    variants: Variants | None = None,
    with_intervals: bool = True,
) -> Grid:
    """Compute all values of a suite for one checkpoint; see :func:`build_table`."""
    counts = count_cases(record, checkpoint) if counts is None else counts
    entries = list(counts.by_entry)
    means = list(map(Contrast, entries))
    values: dict[Key, Sequence[float]] = {**auxiliary_values(record, checkpoint)}
    intervals: dict[Key, Estimate] = {}
    for measure in record.measures:
        for entry, by_seed in counts.scores(measure).items():
            values[(*entry, measure)] = list(by_seed.values())
        if not with_intervals:
            continue
        found = estimate(counts, measure, means, resamples=resamples, rng=rng)
        intervals |= {(*entry, measure): one for entry, one in zip(entries, found, strict=True)}
    variants = find_variants(record) if variants is None else variants
    return Grid(record, variants, values, intervals)


def build_panels(grid: Grid) -> tuple[TablePanel, ...]:
    """Build the panels of quality, then those of auxiliary metrics."""
    return (*_quality_panels(grid), *auxiliary_panels(grid))


def _quality_panels(grid: Grid) -> Iterator[TablePanel]:
    metrics = {name: Metric(name, quantity=PERFORMANCE) for name in grid.record.measures}
    unit = PERCENT if {one.info.unit for one in metrics.values()} <= {PERCENT} else ''
    columns = metrics if unit else {one.heading: one for one in metrics.values()}
    networks = [run for run in grid.other_runs if run.mode == BASELINE]
    others = [run for run in grid.other_runs if run.mode != BASELINE]
    if networks:
        yield grid.by_run('Single networks', networks, columns, unit)
    for variant in grid.variants:
        for metric in metrics.values():
            yield grid.by_style(variant, metric)
    if others:
        yield grid.by_run('Compared methods', others, columns, unit)


def explain(
    record: SuiteRecord, checkpoint: str, panels: Sequence[TablePanel], where_paper: str
) -> Iterator[str]:
    """Explain metrics, missing runs and values of the paper.

    Args:
        record: The suite.
        checkpoint: ``'best'`` or ``'last'``.
        panels: Result of :func:`build_panels`.
        where_paper: Where the values of the paper are printed.
    """
    cells = chain.from_iterable(row.cells for panel in panels for row in panel.rows)
    measured = {cell.measure.partition('/')[0] for cell in cells}
    yield from (note for about, note in NOTES.items() if about in measured)
    if any(DETECTION in MEASURES[measure].tasks for measure in record.measures):
        yield 'Detection is not a task of the paper, which makes no claims about it.'
    if (folds := max((run.folds for run in record.runs), default=1)) > 1:
        yield f'Pooled tests of {folds} folds, in which every case is tested once.'
    missing: dict[str, list[str]] = {}
    for run in record.runs:
        if run.state != DONE or checkpoint not in run.measured:
            missing.setdefault(run.name, []).append(_state(run, checkpoint))
    for name, states in missing.items():
        yield f'Missing: {name}, {"; ".join(states)}.'
    doubts: dict[tuple[str, str], list[str]] = {}
    tables = set()
    for panel in panels:
        for row in panel.rows:
            for column, cell in zip(panel.columns, row.cells, strict=True):
                if cell.paper is None:
                    continue
                tables.add(cell.paper.table)
                if cell.paper.doubt:
                    place = dict.fromkeys((row.block, row.label, column, cell.measure))
                    places = doubts.setdefault((cell.paper.table, cell.paper.doubt), [])
                    places.append(' '.join(filter(None, place)))
    used = [table for table in record.paper_tables if table in tables]
    if used:
        yield f'{where_paper}: values of the paper, {", ".join(used)}; * doubtful.'
    for (table, doubt), places in doubts.items():
        yield f'* {table}, {", ".join(places)}: {doubt}.'
    general: dict[str, list[str]] = {}
    for table in used:
        for note in table_notes(table):
            general.setdefault(note, []).append(table)
    for note, about in general.items():
        yield f'{", ".join(about)}: {note}.'


def _state(run: RunRecord, checkpoint: str) -> str:
    if run.state == DONE:
        return f'seed {run.seed} was not tested with the {checkpoint} checkpoint'
    last_line = (run.error or '').strip().rpartition('\n')[2][:100]
    return f'seed {run.seed} {run.state}' + (f' ({last_line})' if last_line else '')


def render(table: Table, form: str) -> str:
    """Render a table as text.

    Args:
        table: Result of :func:`build_table`.
        form: ``'text'`` for a terminal, ``'markdown'``, ``'latex'`` (with ``booktabs``), or
            ``'csv'`` with one row per cell and without notes.

    Raises:
        ValueError: If the format is unknown.
    """
    if form not in FORMS:
        raise ValueError(f'Invalid form: expected one of {", ".join(FORMS)}, got {form!r}')
    return FORMS[form](table)


def _text(table: Table) -> str:
    parts = [table.title]
    for panel in table.panels:
        pretty = PrettyTable(['', ' ', *panel.columns], align='l')
        for row, first, last in _with_block_ends(panel):
            cells = ['\n'.join(filter(None, (c.ours, c.theirs))) for c in row.cells]
            pretty.add_row([row.block if first else '', row.label, *cells], divider=last)
        parts.append(f'{panel.heading}\n{pretty.get_string()}')
    return '\n\n'.join([*parts, '\n'.join(table.notes)]) + '\n'


def _markdown(table: Table) -> str:
    parts = [f'### {_escape_markdown(table.title)}']
    for panel in table.panels:
        pretty = PrettyTable(['', ' ', *panel.columns], align='l')
        pretty.set_style(TableStyle.MARKDOWN)
        for row, first, _ in _with_block_ends(panel):
            cells = [row.block if first else '', row.label, *map(_one_line, row.cells)]
            pretty.add_row(list(map(_escape_markdown, cells)))
        parts.append(f'**{_escape_markdown(panel.heading)}**\n\n{pretty.get_string()}')
    notes = '\n'.join(f'- {_escape_markdown(note)}' for note in table.notes)
    return '\n\n'.join([*parts, notes]) + '\n'


def _latex(table: Table) -> str:
    parts = []
    for panel in table.panels:
        frame = pd.DataFrame(
            [list(map(_escape_latex, map(_one_line, row.cells))) for row in panel.rows],
            columns=list(map(_escape_latex, panel.columns)),
            index=pd.MultiIndex.from_tuples(
                [(_escape_latex(row.block), _escape_latex(row.label)) for row in panel.rows]
            ),
        )
        caption = _escape_latex(f'{panel.heading}. {table.title}')
        parts.append(frame.to_latex(caption=caption, escape=False, multirow=False))
    # Not separated by double backslashes, which would take the asterisk of a note as argument.
    notes = '\n'.join(f'\\par\\noindent {_escape_latex(note)}' for note in table.notes)
    return '\n'.join([*parts, f'{{\\footnotesize\n{notes}\n\\par}}\n'])


def _csv(table: Table) -> str:
    rows = [
        dict(
            suite=table.suite,
            checkpoint=table.checkpoint,
            panel=panel.title,
            block=row.block,
            row=row.label,
            column=column,
            run=cell.run,
            member=cell.member,
            measure=cell.measure,
            unit=unit_of(cell.measure),
            mean=cell.mean,
            std=cell.std,
            n=cell.done,
            expected=cell.expected,
            low=cell.low,
            high=cell.high,
            paper_table=cell.paper and cell.paper.table,
            paper_mean=cell.paper and cell.paper.mean,
            paper_std=cell.paper and cell.paper.std,
            doubt=cell.paper and cell.paper.doubt,
        )
        for panel in table.panels
        for row in panel.rows
        for column, cell in zip(panel.columns, row.cells, strict=True)
    ]
    return pd.DataFrame(rows).to_csv(index=False)


def _with_block_ends(panel: TablePanel) -> Iterator[tuple[TableRow, bool, bool]]:
    """Yield each row, and whether it is the first and whether it is the last row of its block."""
    blocks = [None, *(row.block for row in panel.rows), None]
    for index, row in enumerate(panel.rows, start=1):
        yield row, blocks[index - 1] != row.block, blocks[index + 1] != row.block


def _one_line(cell: TableCell) -> str:
    return ' '.join(filter(None, (cell.ours, cell.theirs)))


def _escape_markdown(text: str) -> str:
    return text.translate(_MARKDOWN)


def _escape_latex(text: str) -> str:
    return text.translate(_LATEX)


FORMS = {'text': _text, 'markdown': _markdown, 'latex': _latex, 'csv': _csv}
