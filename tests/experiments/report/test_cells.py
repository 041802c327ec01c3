import pytest

from mmkdml.experiments.paper.values import PaperValue
from mmkdml.experiments.report.cells import Cell, Panel, Row, Table


@pytest.mark.parametrize(
    ('figures', 'text'),
    [
        (dict(mean=84.125, std=0.306, done=3, expected=3), '84.12 ± 0.31 (3)'),
        (dict(mean=84.1, std=0.3, done=2, expected=3), '84.10 ± 0.30 (2 of 3)'),
        (dict(mean=84.1, done=1, expected=3), '84.10 (1 of 3)'),
        (dict(mean=100.0, done=1, expected=1), '100.00 (1)'),
        (dict(expected=3), '-'),
        (dict(), '-'),
        (dict(done=2, expected=2), 'nan (2)'),
    ],
)
def test_ours_in_words(figures, text):
    assert Cell('run', 'ensemble', 'IoU', **figures).ours == text


@pytest.mark.parametrize(('doubt', 'mark'), [('', ''), ('a doubt', '*')])
def test_theirs_as_printed(doubt, mark):
    paper = PaperValue('Table 4', 94.1, 0.597, '94.1 ± 0.597', doubt)
    assert Cell('run', 'ensemble', 'IoU', paper=paper).theirs == f'[94.1 ± 0.597{mark}]'


def test_what_the_paper_does_not_have_is_empty():
    assert Cell('run', 'ensemble', 'IoU').theirs == ''


def test_cells_of_a_table_come_row_by_row():
    a, b, c = (Cell(name, 'model', 'IoU') for name in 'abc')
    panels = (
        Panel('1', ('x', 'y'), (Row('', 'r', (a, b)),)),
        Panel('2', ('x',), (Row('', 'r', (c,)),)),
    )
    assert Table('s', 'S', 'best', panels, ()).cells == [a, b, c]
