import math

import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import similarity_difference
from mmkdml.models.losses import SimilarityPreservingLoss
from mmkdml.registry import MODELS


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


FS = gen((4, 6, 8, 8), 0.011, 0.2, 1, 0.3)
FT10 = gen((4, 10, 4, 4), 0.023, 0.5, 1, 0.3)


def test_values_of_the_reference_implementation():
    learner = FS.clone().requires_grad_()
    loss = MODELS.build(dict(type='SimilarityPreservingLoss'))
    value = loss(learner, FT10)
    value.backward()
    assert isinstance(loss, SimilarityPreservingLoss)
    assert value.item() == pytest.approx(0.1590324129591575, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(0.017328193755024063, rel=1e-9)


def test_the_sum_over_pairs_of_taps_of_any_shape():
    loss = SimilarityPreservingLoss()
    vectors = FS.mean(dim=(2, 3))
    expected = similarity_difference(FS, FT10) + similarity_difference(vectors, FS)
    torch.testing.assert_close(loss([FS, vectors], [FT10, FS]), expected)
    assert not loss.requires_same_shape
    assert not loss.state_dict()


def test_bad_input():
    with pytest.raises(ValueError, match='at least 2 of both sides, got 1 and 1: use a larger'):
        SimilarityPreservingLoss()(FS[:1], FT10[:1])
    with pytest.raises(ValueError, match='got 1 of the learner and 2 of the source'):
        SimilarityPreservingLoss()(FS, [FT10, FT10])
