"""The results of a suite in the form of the paper's tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain

import pandas as pd
from prettytable import PrettyTable, TableStyle

from mmkdml.experiments.paper.values import SINGLE, PaperValue, paper_value, table_notes
from mmkdml.experiments.report.auxiliary_metrics import NOTES, beside_panels
from mmkdml.experiments.report.cells import MEMBERS, Cell, Panel, Row, Table
from mmkdml.models.transfers import FROM_TEACHER, MODES, STYLES
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.statistics.bootstrap import RESAMPLES, Contrast, estimate
from mmkdml.statistics.counts import count_cases, variants
from mmkdml.statistics.records import BASELINE, DONE, RunRecord, SuiteRecord

SHOWN = {'best': 'best on the validation part', 'last': 'after the last epoch'}
_LATEX = str.maketrans(
    {
        **{character: f'\\{character}' for character in '&%$#_{}'},
        **{'\\': r'\textbackslash{}', '~': r'\textasciitilde{}', '^': r'\textasciicircum{}'},
        **{'<': r'\textless{}', '>': r'\textgreater{}', '±': r'$\pm$'},
    }
)
_MARKDOWN = str.maketrans({character: f'\\{character}' for character in '\\`*_|<['})


def build_table(
    record: SuiteRecord, checkpoint: str, resamples: int = RESAMPLES, rng: int = 0
) -> Table:
    """Sets the results of a suite in the form of the paper's tables.

    In each variant of the suite: the networks alone; for each measure a block of rows for each
    mode (teacher, students, ensemble) with a column for each style; the runs of no known mode and
    style by name, as their ensemble, or the model if it is no distiller.

    Args:
        record: The suite. Only runs that are done count; others are named in the notes.
        checkpoint: ``'best'`` or ``'last'``.
        resamples: For the intervals, see :func:`~mmkdml.statistics.bootstrap.estimate`.
        rng: See there.

    Raises:
        ValueError: As :func:`~mmkdml.statistics.counts.count_cases`, ``variants`` beside it,
            :func:`~mmkdml.statistics.bootstrap.estimate` and
            :func:`~mmkdml.experiments.paper.values.paper_value`.
    """
    counts = count_cases(record, checkpoint)
    entries = list(counts.samples)
    means = list(map(Contrast, entries))
    scores = {measure: counts.scores(measure) for measure in record.measures}
    estimates = {
        measure: estimate(counts, measure, means, resamples=resamples, rng=rng)
        for measure in record.measures
    }
    expected = Counter(run.name for run in record.runs)

    def cell_of(run: str, member: str, measure: str, paper: PaperValue | None) -> Cell:
        if (run, member) not in entries:
            return Cell(run, member, measure, expected=expected[run], paper=paper)
        values = pd.Series(scores[measure][run, member])
        found = estimates[measure][entries.index((run, member))]
        return Cell(
            run,
            member,
            measure,
            mean=float(values.mean(skipna=False)),
            std=float(values.std(skipna=False)),
            done=len(values),
            expected=expected[run],
            low=found.low,
            high=found.high,
            paper=paper,
        )

    ensembles = {run for run, member in entries if member == ENSEMBLE}
    panels = (*_panels(record, cell_of, ensembles), *beside_panels(record, checkpoint))
    title = f'{record.name}: {record.title} ({SHOWN[checkpoint]}; test part; percent)'
    return Table(record.name, title, checkpoint, panels, tuple(_notes(record, checkpoint, panels)))


def _panels(
    record: SuiteRecord, cell_of: Callable[..., Cell], ensembles: Collection[str]
) -> Iterator[Panel]:
    tables, grids = record.paper_tables, variants(record)
    in_grid = {name for names in grids.values() for name in names.values()}
    networks: dict[str, list[Row]] = {}
    others: dict[str, list[Row]] = {}
    for name, run in {run.name: run for run in record.runs if run.name not in in_grid}.items():
        variant, _, label = name.rpartition('/')
        member = ENSEMBLE if name in ensembles else PLAIN
        cells = tuple(
            cell_of(name, member, m, paper_value(tables, run.mode, run.style, SINGLE, m, label))
            for m in record.measures
        )
        rows = networks if run.mode == BASELINE else others
        rows.setdefault(variant, []).append(Row(variant, label, cells))
    if networks:
        yield Panel('Networks alone', tuple(record.measures), tuple(chain(*networks.values())))
    for variant, names in grids.items():
        modes = [mode for mode in MODES if any(mode == of for of, _ in names)]
        for measure in record.measures:
            grid = tuple(
                Row(
                    mode,
                    label,
                    tuple(
                        cell_of(
                            names.get((mode, style), ''),
                            member,
                            measure,
                            paper_value(tables, mode, style, member, measure),
                        )
                        for style in STYLES
                    ),
                )
                for mode in modes
                for member, label in MEMBERS.items()
                if member != TEACHER or FROM_TEACHER[mode]
            )
            yield Panel(f'{variant}: {measure}' if variant else measure, STYLES, grid)
    if others:
        yield Panel('Methods compared with', tuple(record.measures), tuple(chain(*others.values())))


def _notes(record: SuiteRecord, checkpoint: str, panels: Sequence[Panel]) -> Iterator[str]:
    yield 'Mean ± sample standard deviation over seeds (number of seeds).'
    cells = chain.from_iterable(row.cells for panel in panels for row in panel.rows)
    measured = {cell.measure.partition('/')[0] for cell in cells}
    yield from (note for about, note in NOTES.items() if about in measured)
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
    shown = [table for table in record.paper_tables if table in tables]
    if shown:
        yield f'In brackets: the paper, {", ".join(shown)}; * doubtful.'
    for (table, doubt), places in doubts.items():
        yield f'* {table}, {", ".join(places)}: {doubt}.'
    general: dict[str, list[str]] = {}
    for table in shown:
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
    """Writes a table out.

    Args:
        table: Of :func:`build_table`.
        form: ``'text'`` for a terminal; ``'markdown'``; ``'latex'`` (with ``booktabs``);
            ``'csv'``, a row for each figure, without notes.

    Raises:
        ValueError: If there is no such form.
    """
    if form not in FORMS:
        raise ValueError(f'expected a form among {", ".join(FORMS)}, got {form!r}')
    return FORMS[form](table)


def _text(table: Table) -> str:
    parts = [table.title]
    for panel in table.panels:
        pretty = PrettyTable(['', ' ', *panel.columns], align='l')
        for row, first, last in _with_ends(panel):
            cells = ['\n'.join(filter(None, (c.ours, c.theirs))) for c in row.cells]
            pretty.add_row([row.block if first else '', row.label, *cells], divider=last)
        parts.append(f'{panel.heading}\n{pretty.get_string()}')
    return '\n\n'.join([*parts, '\n'.join(table.notes)]) + '\n'


def _markdown(table: Table) -> str:
    parts = [f'### {_for_markdown(table.title)}']
    for panel in table.panels:
        pretty = PrettyTable(['', ' ', *panel.columns], align='l')
        pretty.set_style(TableStyle.MARKDOWN)
        for row, first, _ in _with_ends(panel):
            cells = [row.block if first else '', row.label, *map(_in_line, row.cells)]
            pretty.add_row(list(map(_for_markdown, cells)))
        parts.append(f'**{_for_markdown(panel.heading)}**\n\n{pretty.get_string()}')
    notes = '\n'.join(f'- {_for_markdown(note)}' for note in table.notes)
    return '\n\n'.join([*parts, notes]) + '\n'


def _latex(table: Table) -> str:
    parts = []
    for panel in table.panels:
        frame = pd.DataFrame(
            [list(map(_for_latex, map(_in_line, row.cells))) for row in panel.rows],
            columns=list(map(_for_latex, panel.columns)),
            index=pd.MultiIndex.from_tuples(
                [(_for_latex(row.block), _for_latex(row.label)) for row in panel.rows]
            ),
        )
        caption = _for_latex(f'{panel.heading}. {table.title}')
        parts.append(frame.to_latex(caption=caption, escape=False, multirow=False))
    # Not parted by a double backslash: it would take the asterisk of the next note for its own.
    notes = '\n'.join(f'\\par\\noindent {_for_latex(note)}' for note in table.notes)
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


def _with_ends(panel: Panel) -> Iterator[tuple[Row, bool, bool]]:
    """Each row, and whether it is the first and the last one of its block."""
    blocks = [None, *(row.block for row in panel.rows), None]
    for index, row in enumerate(panel.rows, start=1):
        yield row, blocks[index - 1] != row.block, blocks[index + 1] != row.block


def _in_line(cell: Cell) -> str:
    return ' '.join(filter(None, (cell.ours, cell.theirs)))


def _for_markdown(text: str) -> str:
    return text.translate(_MARKDOWN)


def _for_latex(text: str) -> str:
    return text.translate(_LATEX)


FORMS = {'text': _text, 'markdown': _markdown, 'latex': _latex, 'csv': _csv}
