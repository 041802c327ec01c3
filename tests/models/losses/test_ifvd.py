import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import intra_class_variation
from mmkdml.models.losses import IntraClassVariationLoss
from mmkdml.registry import MODELS


def test_options_reach_the_function():
    rng = torch.Generator().manual_seed(0)
    learner, source = torch.randn(2, 3, 4, 6, generator=rng), torch.randn(2, 5, 4, 6, generator=rng)
    truth = torch.randint(2, (2, 8, 12), generator=rng)
    expected = intra_class_variation(learner, source, truth)
    assert torch.equal(IntraClassVariationLoss()(learner, source, truth), expected)
    truth[0, :4] = 2
    truth[1, :4] = 9
    loss = MODELS.build(dict(type='IntraClassVariationLoss', num_classes=3, ignore_index=9))
    expected = intra_class_variation(learner, source, truth, 3, 9)
    assert torch.equal(loss(learner, source, truth), expected)


def test_what_the_engine_asks():
    loss = IntraClassVariationLoss()
    assert loss.needs_truth is True
    assert loss.requires_same_shape is False
    assert not loss.state_dict()
    assert repr(loss) == 'IntraClassVariationLoss(num_classes=2, ignore_index=255)'


def test_the_number_of_classes_is_checked_when_it_is_built():
    with pytest.raises(ValueError, match='num_classes must be at least 2.*got 1'):
        IntraClassVariationLoss(1)
