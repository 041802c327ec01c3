import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import category_similarity, pixel_similarity
from mmkdml.models.losses import CategorySimilarityLoss, PixelSimilarityLoss
from mmkdml.registry import MODELS


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize('container', [list, tuple])
def test_pixel_similarity_of_a_u_nets_maps(container):
    loss = MODELS.build(dict(type='PixelSimilarityLoss'))
    learner = container([maps(2, 8, 4, 4), maps(2, 4, 8, 8), maps(2, 1, 16, 16)])
    source = container([maps(2, 9, 4, 4, seed=1), maps(2, 5, 8, 8), maps(2, 1, 16, 16, seed=1)])
    assert torch.equal(loss(learner, source), pixel_similarity(learner, source))
    assert loss.requires_same_shape is False
    assert not loss.state_dict()


def test_pixel_similarity_refuses_a_single_tap():
    with pytest.raises(ValueError, match='two or more maps.*got 1 and 1'):
        PixelSimilarityLoss()([maps(2, 3, 4, 4)], [maps(2, 3, 4, 4)])
    with pytest.raises(ValueError, match='two or more maps.*got 1 and 1'):
        PixelSimilarityLoss()(maps(2, 3, 4, 4), maps(2, 3, 4, 4))


@pytest.mark.parametrize('temperature', [1, 4.0])
@pytest.mark.parametrize('num_logits', [1, 3])
def test_category_similarity(num_logits, temperature):
    loss = MODELS.build(dict(type='CategorySimilarityLoss', temperature=temperature))
    sides = maps(2, num_logits, 4, 6), maps(2, num_logits, 4, 6, seed=1)
    assert torch.equal(loss(*sides), category_similarity(*sides, temperature))
    assert torch.equal(CategorySimilarityLoss()(*sides), category_similarity(*sides, 4.0))
    assert repr(loss) == f'CategorySimilarityLoss(temperature={temperature})'


def test_the_temperature_is_checked_when_it_is_built():
    with pytest.raises(ValueError, match='temperature must be a positive number, got -1'):
        CategorySimilarityLoss(temperature=-1)
