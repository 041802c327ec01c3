import pytest
import torch

from mmkdml.functional import discriminator_error, gradient_penalty
from mmkdml.registry import MODELS


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def example(num_logits=2, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.build(
            dict(
                type='HolisticLoss',
                learner_channels=num_logits,
                source_channels=num_logits,
                width=4,
                **options,
            )
        )


@pytest.mark.parametrize('num_logits', [1, 3])
def test_forward_only_trains_the_learner(num_logits):
    loss = example(num_logits)
    learner, source = (maps(2, num_logits, 64, 80, seed=seed) for seed in range(2))
    learner.requires_grad_()
    value = loss(learner, source)
    value.backward()
    assert (learner.grad != 0).any()
    assert all(parameter.grad is None for parameter in loss.parameters())
    assert all(parameter.requires_grad for parameter in loss.parameters())
    loss.eval()
    torch.testing.assert_close(loss(learner, source), -loss.discriminator(learner).mean())


@pytest.mark.parametrize('kind', ['hinge', 'wgan-gp'])
@pytest.mark.parametrize('num_logits', [1, 3])
def test_discriminator_loss_only_trains_the_discriminator(num_logits, kind):
    loss = example(num_logits, kind=kind)
    sides = [maps(2, num_logits, 64, 64, seed=seed).requires_grad_() for seed in range(2)]
    loss.discriminator_loss(*sides).backward()
    assert all(side.grad is None for side in sides)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert sum((p.grad != 0).any() for p in loss.parameters()) > 5


def test_discriminator_loss_is_error_plus_penalty():
    learner, source = maps(2, 2, 64, 64), maps(2, 2, 64, 64, seed=1)
    hinge = example().eval()
    scores = hinge.discriminator(learner), hinge.discriminator(source)
    torch.testing.assert_close(
        hinge.discriminator_loss(learner, source), discriminator_error(*scores, 'hinge')
    )
    wgan = example(kind='wgan-gp', penalty_weight=3.0).eval()
    torch.manual_seed(7)
    value = wgan.discriminator_loss(learner, source)
    torch.manual_seed(7)
    penalty = gradient_penalty(wgan.discriminator, learner, source, torch.rand(2, 1, 1, 1))
    torch.testing.assert_close(value, discriminator_error(*scores, 'wgan-gp') + 3 * penalty)
    assert penalty > 0


def test_backward_of_the_sum_gives_the_separate_gradients():
    gradients = []
    for together in (True, False):
        loss = example()
        learner, source = maps(2, 2, 64, 64).requires_grad_(), maps(2, 2, 64, 64, seed=1)
        terms = [loss(learner, source), loss.discriminator_loss(learner, source)]
        if together:
            sum(terms).backward()
        else:
            for term in terms:
                term.backward()
        gradients.append([learner.grad, *(p.grad for p in loss.parameters())])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_optimizer_steps_reduce_both_losses():
    loss = example()
    learner = torch.zeros(2, 2, 64, 64, requires_grad=True)
    source = 3 + maps(2, 2, 64, 64)
    own = torch.optim.Adam(loss.parameters(), 1e-2, (0.9, 0.99))
    errors = []
    for _ in range(8):
        error = loss.discriminator_loss(learner, source)
        own.zero_grad()
        error.backward()
        own.step()
        errors.append(error.item())
    assert errors[-1] < 0.5 * errors[0]
    loss.eval()
    before = loss(learner, source)
    before.backward()
    with torch.no_grad():
        learner -= 0.1 * learner.grad / learner.grad.abs().max()
    assert loss(learner, source) < before


def test_half_precision_without_autocast_is_computed_in_float32():
    loss = example()
    learner, source = maps(2, 2, 64, 64).bfloat16(), maps(2, 2, 64, 64, seed=1).bfloat16()
    assert loss(learner, source).dtype == torch.float32
    assert loss.discriminator_loss(learner, source).dtype == torch.float32
