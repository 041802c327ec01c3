import io

import pandas as pd
import pytest

from mmkdml.evaluation import csv_text


@pytest.mark.parametrize(
    'text',
    ['=1+1', '+cmd|" /C calc"!A0', '-2+3', '@SUM(A1)', '\tx', '\r=x', '-', "=HYPERLINK('x')"],
)
def test_formulas_are_escaped(text):
    table = pd.DataFrame({'case': [text, 'plain'], text: [1, -2]})
    before = table.copy()
    read = pd.read_csv(io.StringIO(csv_text(table)), dtype=str)
    escaped = "'" + text.replace('\r', '\n')
    assert read['case'].tolist() == [escaped, 'plain']
    assert list(read)[1] == escaped
    pd.testing.assert_frame_equal(table, before)


def test_other_values_are_unchanged():
    table = pd.DataFrame(
        {
            'case': ['a=b', "it's", '', None, 'ü,"\n', '-1', '+1.5'],
            'number': [-1.5, 2, float('nan'), 0, 1e-9, -0.0, 1],
            'whole': [-1, 2, 3, 4, 5, 6, 7],
            'mixed': [-1, 'x', None, True, -2.5, 'y', 0],
        }
    )
    assert csv_text(table) == table.to_csv(index=False)
    assert csv_text(pd.DataFrame()) == pd.DataFrame().to_csv(index=False)
