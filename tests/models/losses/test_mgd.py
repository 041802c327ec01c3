"""Random masks and parameters of MGD."""

import pytest
import torch
from torch import nn

from mmkdml.models.losses import MGDLoss

MAPS = torch.linspace(-1, 1, 4 * 3 * 6 * 6).sin().view(4, 3, 6, 6), torch.ones(4, 5, 6, 6)


def build(learner=3, source=5, **options):
    torch.manual_seed(0)
    return MGDLoss(learner, source, **options)


@pytest.mark.parametrize('masked', ['pixels', 'channels'])
def test_masks_follow_the_seed_and_change_from_call_to_call(masked):
    loss = build(masked=masked, ratio=0.5)
    torch.manual_seed(7)
    first, second = loss(*MAPS), loss(*MAPS)
    torch.manual_seed(7)
    assert torch.equal(loss(*MAPS), first)
    assert first != second


def test_random_state_continues_after_a_resume():
    loss = build()
    torch.manual_seed(7)
    loss(*MAPS)
    state = torch.get_rng_state()
    expected = loss(*MAPS)
    resumed = build()
    resumed.load_state_dict(loss.state_dict())
    torch.set_rng_state(state)
    assert torch.equal(resumed(*MAPS), expected)


def test_nothing_is_masked_in_eval_mode_or_with_a_ratio_of_zero():
    loss = build(ratio=0.9).eval()
    generated = loss.generation(loss.align(MAPS[0]))
    expected = (generated - MAPS[1]).square().sum() / 4
    torch.testing.assert_close(loss(*MAPS), expected)
    torch.testing.assert_close(build(ratio=0)(*MAPS), expected)
    assert not torch.isclose(loss.train()(*MAPS), expected)


@pytest.mark.parametrize(('channels', 'aligned'), [((3, 5), True), ((5, 5), False)])
def test_channels_are_aligned_only_where_they_differ(channels, aligned):
    loss = build(*channels)
    assert isinstance(loss.align, nn.Conv2d) == aligned
    number = sum(p.numel() for p in loss.parameters())
    assert number == 2 * (5 * 5 * 9 + 5) + aligned * (3 * 5 + 5)


def test_masked_pixels_get_no_gradient_before_the_convolutions():
    loss = build(ratio=0.9)
    learner = MAPS[0].clone().requires_grad_()
    torch.manual_seed(7)
    loss(learner, MAPS[1]).backward()
    torch.manual_seed(7)
    kept = (torch.rand(4, 1, 6, 6) >= 0.9).expand(4, 3, 6, 6)
    assert 0 < kept.sum() < kept.numel()
    assert (learner.grad[kept] != 0).all()
    assert (learner.grad[~kept] == 0).all()
    assert all((p.grad != 0).any() for p in loss.parameters())
