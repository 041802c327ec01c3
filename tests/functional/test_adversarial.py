import pytest
import torch

from mmkdml.functional import discriminator_error, gradient_penalty, learner_realism
from mmkdml.functional.adversarial import ADVERSARIES


def maps(*shape, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize('kind', ADVERSARIES)
@pytest.mark.parametrize('shape', [(5,), (2, 1, 3, 4)])
def test_equals_the_sums_written_out(shape, kind):
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
    # A discriminator that is sure enough has nothing more to learn from the hinge, the default.
    assert discriminator_error(-scores, scores).item() == 0
    assert discriminator_error(scores, -scores).item() == 6
    assert discriminator_error(-scores, scores, 'wgan-gp').item() == -4


def test_learner_and_discriminator_pull_in_opposite_directions():
    scores = maps(4).requires_grad_()
    (up,) = torch.autograd.grad(learner_realism(scores), scores)
    (down,) = torch.autograd.grad(discriminator_error(scores, maps(4), 'wgan-gp'), scores)
    assert (up < 0).all()
    torch.testing.assert_close(down, -up)


def test_penalty_of_a_linear_discriminator_depends_on_its_slope_alone():
    weight = maps(3, 4, 5).requires_grad_()
    learner, source = maps(2, 3, 4, 5), maps(2, 3, 4, 5, seed=1)
    value = gradient_penalty(
        lambda x: (x * weight).sum((1, 2, 3)), learner, source, torch.rand(2, 1, 1, 1)
    )
    assert value.item() == pytest.approx((weight.norm().item() - 1) ** 2)
    value.backward()
    slope = 2 * (weight.norm() - 1) * weight / weight.norm()
    torch.testing.assert_close(weight.grad, slope.detach())


def test_penalty_between_the_sides():
    # D(x) = sum of x^2 / 2 has the slope x, and so its norm at the point between.
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


def test_penalty_is_finite_where_the_slope_is_zero():
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


def test_bad_input():
    with pytest.raises(ValueError, match="kind must be one of hinge, wgan-gp; got 'vanilla'"):
        discriminator_error(torch.zeros(2), torch.zeros(2), 'vanilla')
    with pytest.raises(ValueError, match=r"error needs.*learner's \(2,\) and the source's \(3,\)"):
        discriminator_error(torch.zeros(2), torch.zeros(3))
    with pytest.raises(ValueError, match=r'penalty needs.*\(2, 3, 4, 4\) and.*\(1, 3, 4, 4\)'):
        gradient_penalty(
            torch.sum, torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4), torch.rand(2, 1, 1, 1)
        )
