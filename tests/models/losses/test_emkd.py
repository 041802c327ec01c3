import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import importance_difference, region_affinity
from mmkdml.models.losses import ImportanceMapLoss, PredictionKLLoss, RegionAffinityLoss
from mmkdml.registry import MODELS


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LOW = maps(2, 3, 8, 8), maps(2, 5, 8, 8, seed=1)
HIGH = maps(2, 6, 2, 2), maps(2, 7, 4, 4, seed=1)
TRUTH = torch.randint(2, (2, 16, 16), generator=torch.Generator().manual_seed(2))


def test_importance_maps_add_up_over_the_taps():
    loss = MODELS.build(dict(type='ImportanceMapLoss'))
    both = loss([LOW[0], HIGH[0]], [LOW[1], HIGH[1]])
    low, high = importance_difference(*LOW), importance_difference(*HIGH)
    torch.testing.assert_close(both, low + high)
    assert torch.equal(loss(*LOW), low)
    assert torch.equal(ImportanceMapLoss(2)(*LOW), importance_difference(*LOW, 2))
    assert loss.requires_same_shape is False
    assert not loss.state_dict()
    assert repr(loss) == 'ImportanceMapLoss(exponent=4.0)'


def test_region_affinities_add_up_over_the_taps():
    loss = MODELS.build(dict(type='RegionAffinityLoss'))
    both = loss([LOW[0], HIGH[0]], [LOW[1], HIGH[1]], TRUTH)
    low, high = region_affinity(*LOW, TRUTH), region_affinity(*HIGH, TRUTH)
    torch.testing.assert_close(both, low + high)
    assert torch.equal(loss(*LOW, TRUTH), low)
    assert loss.needs_truth is True
    assert loss.requires_same_shape is False
    assert not loss.state_dict()
    assert repr(loss) == 'RegionAffinityLoss(num_classes=2, ignore_index=255)'


def test_options_reach_region_affinity():
    truth = TRUTH.clone()
    truth[:, :4], truth[:, :, :4] = 2, 9
    value = RegionAffinityLoss(num_classes=3, ignore_index=9)(*LOW, truth)
    assert torch.equal(value, region_affinity(*LOW, truth, 3, 9))


@pytest.mark.parametrize('num_logits', [1, 2, 4])
def test_prediction_maps_are_a_divergence_that_exists(num_logits):
    learner, source = maps(2, num_logits, 4, 6), maps(2, num_logits, 4, 6, seed=1)
    p, s = (
        (torch.cat([torch.zeros_like(z), z], 1) if num_logits == 1 else z).div(4).softmax(1)
        for z in (source, learner)
    )
    expected = 16 * (p * (p / s).log()).sum() / (2 * 4 * 6)
    loss = PredictionKLLoss(4, 'source||learner', 'temperature_squared')
    torch.testing.assert_close(loss(learner, source), expected)


def test_bad_input():
    with pytest.raises(ValueError, match='exponent must be at least 1, got 0'):
        ImportanceMapLoss(exponent=0)
    with pytest.raises(ValueError, match='num_classes must be at least 2.*got 0'):
        RegionAffinityLoss(num_classes=0)
    with pytest.raises(ValueError, match='got 2 of the learner and 1 of the source'):
        ImportanceMapLoss()([LOW[0], HIGH[0]], [LOW[1]])
    with pytest.raises(ValueError, match='got 0 of the learner and 1 of the source'):
        RegionAffinityLoss()([], [LOW[1]], TRUTH)
