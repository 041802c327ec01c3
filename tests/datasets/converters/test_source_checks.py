import threading

import numpy as np
import pytest

from mmkdml.datasets.converters.source_checks import Problems, foreground_share, source_folder


def refuse_odd(number):
    if number % 2:
        raise ValueError(f'/source/{number}: odd')
    return -number


def test_items_are_checked_in_order_and_errors_collected(tmp_path):
    problems = Problems(source_folder('/', 'a folder') / 'source')
    valid = []
    with pytest.raises(ValueError, match='Invalid source folder /source:\n  - 1: odd\n  - 3: o'):
        valid.extend(problems.check_each(range(6), refuse_odd))
    assert valid == [(0, 0), (2, -2), (4, -4)]
    assert problems.found == ['1: odd', '3: odd', '5: odd']


def test_tenth_problem_stops_the_check(tmp_path):
    checked = []

    def check(number):
        checked.append(number)
        raise ValueError(f'{number}')

    with pytest.raises(ValueError, match='stopped after 10') as error:
        list(Problems(tmp_path).check_each(range(10_000), check))
    assert str(error.value).count('\n  - ') == 10
    assert len(checked) < 1000


def test_check_without_problems_leaves_no_threads(tmp_path):
    before = set(threading.enumerate())  # threads of other tests may end in between
    assert len(list(Problems(tmp_path).check_each(range(50), abs))) == 50
    for thread in set(threading.enumerate()) - before:
        thread.join(300)  # it is about to end
        assert not thread.is_alive()


def test_other_errors_are_raised(tmp_path):
    with pytest.raises(ZeroDivisionError):
        list(Problems(tmp_path).check_each([0], lambda number: 1 / number))


def test_source_that_is_not_a_folder_raises(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(FileNotFoundError, match='file is not a folder; expected some images'):
        source_folder(tmp_path / 'file', 'some images')


def test_foreground_share(tmp_path, save):
    mask = np.zeros((4, 6))
    save(tmp_path / 'image.png', np.zeros((4, 6, 3)))
    save(tmp_path / 'none.png', mask)
    mask[3, 5] = 1
    save(tmp_path / 'some.png', mask)
    save(tmp_path / 'turned.png', mask.T)
    image = tmp_path / 'image.png'
    assert foreground_share(image, tmp_path / 'some.png') == 1 / 24
    assert foreground_share(image, tmp_path / 'none.png') == 0
    with pytest.raises(ValueError, match='turned.png: the mask is 4x6, its image 6x4'):
        foreground_share(image, tmp_path / 'turned.png')
    with pytest.raises(ValueError, match='image.png: expected an image of mode L, got RGB'):
        foreground_share(image, tmp_path / 'some.png', ('L',))
