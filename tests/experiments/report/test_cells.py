import pytest

from mmkdml.experiments.paper.values import PaperValue
from mmkdml.experiments.report.cells import Table, TableCell, TablePanel, TableRow


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
def test_ours_has_mean_std_and_number_of_seeds(figures, text):
    assert TableCell('run', 'ensemble', 'IoU', **figures).ours == text


@pytest.mark.parametrize(('doubt', 'mark'), [('', ''), ('a doubt', '*')])
def test_theirs_is_the_printed_value(doubt, mark):
    paper = PaperValue('Table 4', 94.1, 0.597, '94.1 ± 0.597', doubt)
    assert TableCell('run', 'ensemble', 'IoU', paper=paper).theirs == f'[94.1 ± 0.597{mark}]'


def test_theirs_is_empty_without_a_paper_value():
    assert TableCell('run', 'ensemble', 'IoU').theirs == ''


def test_cells_of_a_table_are_ordered_by_row():
    a, b, c = (TableCell(name, 'model', 'IoU') for name in 'abc')
    panels = (
        TablePanel('1', ('x', 'y'), (TableRow('', 'r', (a, b)),)),
        TablePanel('2', ('x',), (TableRow('', 'r', (c,)),)),
    )
    assert Table('s', 'S', 'best', panels, ()).cells == [a, b, c]
