import pytest
import torch

from mmkdml.functional import discriminator_error, gradient_penalty, learner_realism
from mmkdml.functional.adversarial import ADVERSARIES


def maps(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize('kind', ADVERSARIES)
@pytest.mark.parametrize('shape', [(5,), (2, 1, 3, 4)])
def test_discriminator_error_matches_explicit_sums(shape, kind):
    on_learner, on_source = maps(*shape), maps(*shape, seed=1)
    total = 0.0
    for fake, real in zip(on_learner.flatten().tolist(), on_source.flatten().tolist(), strict=True):
        total += max(0, 1 + fake) + max(0, 1 - real) if kind == 'hinge' else fake - real
    value = discriminator_error(on_learner, on_source, kind)
    assert value.shape == ()
    assert value.item() == pytest.approx(total / on_learner.numel(), rel=1e-12)


def test_closed_forms():
    scores = torch.tensor([1.0, 3.0])
    assert learner_realism(scores).item() == -2
    # The default hinge is 0 for a discriminator with a sufficient margin.
    assert discriminator_error(-scores, scores).item() == 0
    assert discriminator_error(scores, -scores).item() == 6
    assert discriminator_error(-scores, scores, 'wgan-gp').item() == -4


def test_learner_and_discriminator_have_opposite_gradients():
    scores = maps(4).requires_grad_()
    (up,) = torch.autograd.grad(learner_realism(scores), scores)
    (down,) = torch.autograd.grad(discriminator_error(scores, maps(4), 'wgan-gp'), scores)
    assert (up < 0).all()
    torch.testing.assert_close(down, -up)


def test_penalty_of_a_linear_discriminator_depends_only_on_its_slope():
    weight = maps(3, 4, 5).requires_grad_()
    learner, source = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1)
    value = gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), learner, source, torch.rand(2, 1, 1, 1)
    )
    assert value.item() == pytest.approx((weight.norm().item() - 1) ** 2)
    value.backward()
    slope = 2 * (weight.norm() - 1) * weight / weight.norm()
    torch.testing.assert_close(weight.grad, slope.detach())


def test_penalty_interpolates_between_learner_and_source():
    # The gradient of D(x) = sum(x^2) / 2 is x.
    learner, source = maps(3, 2, 4, 4).requires_grad_(), maps(3, 2, 4, 4, seed=1).requires_grad_()
    share = torch.tensor([0.0, 0.25, 1.0], dtype=torch.float64).view(3, 1, 1, 1)
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    value = gradient_penalty(lambda x: scale * x.square() / 2, learner, source, share)
    norms = [
        learner[0].norm().item(),
        (0.25 * source[1] + 0.75 * learner[1]).norm().item(),
        source[2].norm().item(),
    ]
    assert value.item() == pytest.approx(sum((norm - 1) ** 2 for norm in norms) / 3)
    value.backward()
    assert scale.grad != 0
    assert learner.grad is source.grad is None


def test_penalty_with_zero_slope_has_finite_gradients():
    weight = torch.zeros(2, 4, 4, requires_grad=True)
    value = gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)),
        torch.zeros(3, 2, 4, 4),
        torch.zeros(3, 2, 4, 4),
        torch.rand(3, 1, 1, 1),
    )
    value.backward()
    assert value.item() == 1
    assert weight.grad.isfinite().all()
