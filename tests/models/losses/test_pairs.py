import pytest
import torch

from mmkdml.models.losses.pairs import check_count, listed, paired


def test_one_or_several():
    a, b = torch.zeros(2), torch.ones(2)
    assert listed(a)[0] is a
    assert listed((a, b)) == listed([a, b])
    assert listed(64) == [64]
    assert listed((64, 128)) == [64, 128]


def test_a_list_of_taps_is_not_changed():
    taps = [torch.zeros(2)]
    listed(taps).append(torch.ones(1))
    assert len(taps) == 1


def test_pairs_go_together_in_order():
    assert paired(1, 2) == [(1, 2)]
    assert paired([1, 2], (3, 4)) == [(1, 3), (2, 4)]
    assert paired(1, [2]) == [(1, 2)]


@pytest.mark.parametrize(('own', 'other'), [(2, 1), (1, 3), (0, 0), (0, 1)])
def test_unequal_numbers_of_taps_are_refused(own, other):
    with pytest.raises(ValueError, match=f'got {own} of the learner and {other} of the source'):
        paired([1] * own, [1] * other)


def test_the_number_of_taps_that_a_loss_was_built_for():
    check_count([1, 2], 2, 'learner')
    with pytest.raises(ValueError, match='Expected 3 taps of the source.*built with; got 2'):
        check_count([1, 2], 3, 'source')
