import pytest
import torch

from mmkdml.functional import pooled_to_smaller
from mmkdml.functional.shapes import pooled_to


def maps(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_larger_map_is_average_pooled():
    features = maps(2, 3, 4, 6)
    expected = features.view(2, 3, 2, 2, 3, 2).mean(dim=(3, 5))
    torch.testing.assert_close(pooled_to(features, (2, 3)), expected)
    # One axis is larger, the other smaller.
    torch.testing.assert_close(
        pooled_to(features, [2, 9]), features.view(2, 3, 2, 2, 6).mean(dim=3)
    )


def test_cells_overlap_if_sizes_do_not_divide():
    row = torch.arange(5.0).view(1, 1, 1, 5)
    # Adaptive pooling: from floor(i * 5 / 3) to ceil((i + 1) * 5 / 3).
    assert pooled_to(row, (1, 3)).flatten().tolist() == [0.5, 2.0, 3.5]


@pytest.mark.parametrize('size', [(4, 6), (8, 6), (100, 100)])
def test_map_that_is_not_larger_is_returned_unchanged(size):
    features = maps(2, 3, 4, 6)
    assert pooled_to(features, size) is features


@pytest.mark.parametrize(
    ('first', 'second', 'size'),
    [
        ((4, 6), (4, 6), (4, 6)),
        ((4, 6), (2, 3), (2, 3)),
        ((4, 6), (8, 12), (4, 6)),
        ((4, 6), (6, 4), (4, 4)),
        ((1, 1), (7, 7), (1, 1)),
    ],
)
def test_both_maps_get_the_smaller_size(first, second, size):
    learner, source = maps(2, 3, *first), maps(2, 5, *second)
    pooled = pooled_to_smaller(learner, source)
    assert [side.shape for side in pooled] == [(2, 3, *size), (2, 5, *size)]
    assert pooled[0] is learner or first != size
    assert pooled[1] is source or second != size
    # Averages of equal cells keep the mean.
    if all(a % b == 0 for a, b in zip(first, size, strict=True)):
        torch.testing.assert_close(pooled[0].mean(), learner.mean())
