import pytest
import torch

from mmkdml.models.losses.pairs import as_list, check_count, paired, sum_over_pairs


def test_as_list():
    a, b = torch.zeros(2), torch.ones(2)
    assert as_list(a)[0] is a
    assert as_list((a, b)) == as_list([a, b])
    assert as_list(64) == [64]
    assert as_list((64, 128)) == [64, 128]


def test_as_list_returns_a_copy():
    taps = [torch.zeros(2)]
    as_list(taps).append(torch.ones(1))
    assert len(taps) == 1


def test_paired_keeps_the_order():
    assert paired(1, 2) == [(1, 2)]
    assert paired([1, 2], (3, 4)) == [(1, 3), (2, 4)]
    assert paired(1, [2]) == [(1, 2)]


@pytest.mark.parametrize(('own', 'other'), [(2, 1), (1, 3), (0, 0), (0, 1)])
def test_unequal_numbers_of_taps_raise(own, other):
    with pytest.raises(ValueError, match=f'got {own} of the learner and {other} of the source'):
        paired([1] * own, [1] * other)


def test_sum_over_pairs():
    a, b = torch.tensor(2.0), torch.tensor(5.0)
    value = sum_over_pairs(lambda x, y, factor: factor * (x - y), [a, b], (b, b), 3)
    assert value.item() == 3 * (2 - 5)


def test_count():
    check_count([1, 2], 2, 'learner')
    with pytest.raises(ValueError, match='source: expected 3.*got 2'):
        check_count([1, 2], 3, 'source')
