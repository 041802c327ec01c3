import numpy as np
import pytest

from mmkdml.figures.confusion import draw_confusion


def test_cells_have_the_counts(tmp_path):
    matrices = {'teacher': np.array([[5, 1], [0, 4]]), 'ensemble': np.array([[6, 0], [2, 2]])}
    draw_confusion(matrices, ('benign', 'a very long name of a class'), tmp_path / 'a.svg')
    text = (tmp_path / 'a.svg').read_text()
    for part in ('teacher', 'ensemble', 'benign', 'share of the true class'):
        assert part in text


@pytest.mark.parametrize('matrices', [{}, {'a': np.zeros((3, 3))}])
def test_invalid_matrices_raise(matrices, tmp_path):
    with pytest.raises(ValueError, match=r'matrices: expected one or more of \(2, 2\)'):
        draw_confusion(matrices, ('a', 'b'), tmp_path / 'a.png')
