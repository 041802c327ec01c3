"""The headline of a summary, and its tables of metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mmkdml.apis.summary.history import Evaluation, History
from mmkdml.apis.summary.measures import (
    best_validation,
    class_of,
    digits_of,
    group_of,
    has_direction,
    is_less_better,
    main_measure,
    measures_of,
    symbol,
    title_of,
    value_of,
)
from mmkdml.html import number
from mmkdml.metric_info import AUXILIARY_GROUPS, FRACTION
from mmkdml.names import ALL_STUDENTS, ENSEMBLE, PLAIN, TEACHER, TTA

_MAX_CHANGES = 3
_SPLITS = dict(val='validation', test='test')


@dataclass(frozen=True)
class Cell:
    """Value in a table: its text, and whether it is the best one of its column and group."""

    text: str
    value: float
    is_best: bool = False


@dataclass(frozen=True)
class Table:
    """Table of metrics.

    Attributes:
        caption: Caption.
        head: Titles of the columns.
        groups: Title, and rows of name and cells, of each evaluation.
    """

    caption: str
    head: list[str]
    groups: list[tuple[str, list[tuple[str, list[Cell]]]]]


@dataclass(frozen=True)
class Headline:
    """Answer of a run: a sentence, and key figures (label, value, note, kind)."""

    sentence: str
    cards: list[tuple[str, str, str, str]]


def deciding_evaluation(history: History) -> Evaluation | None:
    """Return the test of the best checkpoint with the run's settings, or the next best choice."""
    tests = [one for one in history.evaluations if one.split == 'test']
    tests.sort(key=lambda one: (one.kind == 'best', not one.changes))
    chosen = tests[-1:]
    return chosen[0] if chosen else best_validation(history, main_measure(history))


def headline(history: History) -> Headline:
    """Compare the ensemble with the teacher and the best student in one sentence."""
    measure, evaluation = main_measure(history), deciding_evaluation(history)
    if evaluation is None or measure is None:
        return Headline('No validation or test has been recorded.', [])
    values = {
        name: value
        for name in evaluation.values
        if math.isfinite(value := value_of(evaluation, name, measure))
    }
    where = f'on the {_SPLITS.get(evaluation.split, evaluation.split)} split'
    first = ENSEMBLE if ENSEMBLE in values else PLAIN if PLAIN in values else None
    if first is None:
        return Headline(f'{title_of(measure)} is undefined {where}.', [])
    subject = 'The ensemble' if first == ENSEMBLE else 'The network'
    name = title_of(measure).partition(' (')[0]
    name = name.lower() if name.isalpha() and name.istitle() else name
    article = 'an' if name[0] in 'aeioAEFIO' else 'a'
    sentence = f'{subject} has {article} {name} of {_with_unit(values[first], measure)} {where}'
    label = f'{subject[4:].capitalize()}, {name}'
    cards = [(label, _with_unit(values[first], measure), _describe(evaluation), 'accent')]
    others = (first, TEACHER, ALL_STUDENTS)
    students = {key: one for key, one in values.items() if key not in others}
    choose = min if is_less_better(measure) else max
    rivals = [('teacher', TEACHER)] if TEACHER in values and first == ENSEMBLE else []
    if students and first == ENSEMBLE:
        rivals.append(('best student', choose(students, key=students.__getitem__)))
    texts = []
    for label, rival in rivals:
        other = values[rival]
        named = label if rival == label else f'{label} ({rival})'
        difference = _difference(values[first] - other, measure)
        texts.append(f'{difference} the {named}')
        good = (values[first] > other) != is_less_better(measure)
        kind = '' if values[first] == other else 'good' if good else 'bad'
        note = f'the ensemble is {difference} it'
        cards.append((named[0].upper() + named[1:], _with_unit(other, measure), note, kind))
    comparison = f', {" and ".join(texts)}' if texts else ''
    return Headline(f'{sentence}{comparison}.', cards)


def _difference(value: float, measure: str) -> str:
    if abs(value) < 0.5 * 10 ** -_digits(measure):
        return 'equal to'
    amount = number(abs(value), _digits(measure))
    unit = ' points' if symbol(measure) == '%' else ''
    return f'{amount}{unit} {"above" if value > 0 else "below"}'


def _digits(measure: str) -> int:
    return 1 if symbol(measure) == '%' else 4


def _with_unit(value: float, measure: str) -> str:
    unit = symbol(measure).replace(FRACTION, '')
    return f'{number(value, _digits(measure))} {unit}'.rstrip()


def _describe(evaluation: Evaluation) -> str:
    split = _SPLITS.get(evaluation.split, evaluation.split)
    place = f'epoch {evaluation.epoch}' if evaluation.epoch else ''
    if not place and evaluation.iter:
        place = f'iteration {evaluation.iter}'
    if evaluation.split == 'test':
        kind = f'{evaluation.kind} checkpoint' if evaluation.kind else 'checkpoint'
        text = f'{split}, {kind}' + (f' ({place})' if place else '')
        if not place and evaluation.checkpoint:
            text += f' {evaluation.checkpoint}'
    else:
        text = f'{split}, {place}' if place else split
    if evaluation.cases:
        text += f', {evaluation.cases:,} images'
    changed = [key for key in evaluation.changes if not key.startswith(TTA)]
    text += ', with test-time augmentation' if TTA in evaluation.changes else ''
    more = ', ...' if len(changed) > _MAX_CHANGES else ''
    changes = ', '.join(changed[:_MAX_CHANGES]) + more
    return f'{text}, changed settings: {changes}' if changes else text


def shown_evaluations(history: History) -> list[tuple[str, Evaluation]]:
    """Return the tests, and the best and the last validation, with their titles."""
    tests = [one for one in history.evaluations if one.split == 'test']
    tests.sort(key=lambda one: (one.kind != 'best', bool(one.changes)))
    shown = [(_describe(one), one) for one in tests]
    validations = [one for one in history.evaluations if one.split == 'val']
    best = best_validation(history, main_measure(history))
    for label, one in (('best', best), ('last', validations[-1] if validations else None)):
        if one is not None and (label == 'best' or one is not best):
            text = _describe(one)
            both = label == 'best' and one is validations[-1]
            shown.append((f'{text} ({"best and last" if both else label})', one))
    return [(title[0].upper() + title[1:], one) for title, one in shown]


def metric_tables(history: History) -> list[Table]:
    """Build the tables: quality, auxiliary measures by group, and measures by class."""
    shown = shown_evaluations(history)
    measures = measures_of(one for _, one in shown)
    by_class = {one: found for one in measures if (found := class_of(one))}
    order = [*history.members, ENSEMBLE, PLAIN, ALL_STUDENTS]
    tables = []
    main = main_measure(history)
    for group, caption in {'': 'Quality of predictions', **AUXILIARY_GROUPS}.items():
        columns = [one for one in measures if group_of(one) == group and one not in by_class]
        columns.sort(key=lambda one: one != main)
        head = [title_of(one) for one in columns]
        groups = [
            (title, rows)
            for title, one in shown
            if (rows := _rows(one, columns, _sorted(one.values, order)))
        ]
        if groups:
            tables.append(Table(caption, head, groups))
    for measure in dict.fromkeys(one for one, _ in by_class.values()):
        columns = [one for one, found in by_class.items() if found[0] == measure]
        head = [by_class[one][1] for one in columns]
        groups = [
            (title, rows)
            for title, one in shown
            if (rows := _rows(one, columns, _sorted(one.values, order)))
        ]
        caption = f'{measure[0].upper()}{measure[1:]} by class ({symbol(columns[0])})'
        tables.append(Table(caption, head, groups))
    return tables


def _sorted(names: Iterable[str], order: Sequence[str]) -> list[str]:
    return sorted(names, key=lambda name: order.index(name) if name in order else len(order))


def _rows(
    evaluation: Evaluation, columns: Sequence[str], names: Sequence[str]
) -> list[tuple[str, list[Cell]]]:
    values = {name: [value_of(evaluation, name, one) for one in columns] for name in names}
    values = {
        name: row
        for name, row in values.items()
        if any(one in evaluation.values[name] for one in columns)
    }
    best = []
    for place, measure in enumerate(columns):
        known = [row[place] for row in values.values() if math.isfinite(row[place])]
        choose = min if is_less_better(measure) else max
        differ = len(known) > 1 and max(known) > min(known) and has_direction(measure)
        best.append(choose(known) if differ else math.nan)
    return [
        (
            name,
            [
                Cell(number(value, digits_of(one)), value, value == top)
                for one, value, top in zip(columns, row, best, strict=True)
            ],
        )
        for name, row in values.items()
    ]
