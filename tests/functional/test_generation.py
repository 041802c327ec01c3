import pytest
import torch
from torch import nn

from mmkdml.functional import masked_generation, random_mask


@pytest.mark.parametrize(
    ('masked', 'shape'), [('pixels', (2, 1, 8, 9)), ('channels', (2, 36, 1, 1))]
)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_mask_has_one_value_per_pixel_or_channel(masked, shape, dtype):
    mask = random_mask(torch.zeros(2, 36, 8, 9, dtype=dtype), 0.5, masked)
    assert mask.shape == shape
    assert mask.dtype == dtype
    assert set(mask.unique().tolist()) == {0, 1}


@pytest.mark.parametrize('ratio', [0.15, 0.75])
@pytest.mark.parametrize('masked', ['pixels', 'channels'])
def test_ratio_is_the_share_of_zeros(ratio, masked):
    torch.manual_seed(0)
    features = torch.zeros(1).expand(10, 1000, 40, 25)
    share = (random_mask(features, ratio, masked) == 0).float().mean().item()
    # Ten thousand draws have a standard deviation of 0.5 % at most.
    assert share == pytest.approx(ratio, abs=0.02)


def test_ratio_of_zero_masks_nothing():
    assert random_mask(torch.zeros(2, 3, 50, 50), 0.0).all()


def test_masks_depend_on_the_seed_only():
    features = torch.zeros(2, 3, 8, 8)
    torch.manual_seed(3)
    first, second = random_mask(features, 0.5), random_mask(features, 0.5)
    torch.manual_seed(3)
    assert torch.equal(random_mask(features, 0.5), first)
    assert not torch.equal(first, second)


def test_squares_are_summed_over_the_map_and_averaged_over_images():
    learner, source = torch.ones(2, 1, 2, 2), torch.zeros(2, 3, 2, 2)
    kept = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).view(1, 1, 2, 2)
    # The generated map is 3 in each of three channels where the pixel is kept.
    value = masked_generation(learner, source, kept, lambda x: 3 * x.expand(-1, 3, -1, -1))
    assert value == 3 * 9 * 3


def test_learner_gets_a_gradient_only_where_it_is_kept():
    learner = torch.randn(1, 2, 3, 3).requires_grad_()
    kept = torch.eye(3).view(1, 1, 3, 3)
    masked_generation(learner, torch.zeros(1, 2, 3, 3), kept, nn.Identity()).backward()
    torch.testing.assert_close(learner.grad, 2 * kept * learner.detach())
