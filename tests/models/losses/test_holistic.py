import pytest
import torch

import mmkdml  # noqa: F401
from mmkdml.functional import discriminator_error, gradient_penalty
from mmkdml.models.losses import HolisticLoss
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
def test_the_learner_alone_learns_by_calling_it(num_logits):
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
def test_the_discriminator_alone_learns_by_its_own_loss(num_logits, kind):
    loss = example(num_logits, kind=kind)
    sides = [maps(2, num_logits, 64, 64, seed=seed).requires_grad_() for seed in range(2)]
    loss.discriminator_loss(*sides).backward()
    assert all(side.grad is None for side in sides)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in loss.parameters())
    assert sum((p.grad != 0).any() for p in loss.parameters()) > 5


def test_the_discriminators_loss_is_the_sum_of_its_parts():
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


def test_one_sum_of_both_losses_gives_each_its_own_gradient():
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


def test_the_discriminator_learns_to_tell_the_sides_apart_and_the_learner_to_look_alike():
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


@pytest.mark.parametrize('kind', ['constant', 'huge'])
def test_hard_logits_stay_finite(kind):
    learner = torch.ones(2, 2, 64, 64) if kind == 'constant' else 1e4 * maps(2, 2, 64, 64)
    for dtype, adversary in ((torch.float32, 'hinge'), (torch.bfloat16, 'wgan-gp')):
        loss = example(kind=adversary)
        side = learner.detach().to(dtype, copy=True).requires_grad_()
        source = maps(2, 2, 64, 64).to(dtype)
        value = loss(side, source) + loss.discriminator_loss(side, source)
        value.backward()
        assert value.isfinite()
        assert side.grad.isfinite().all()
        assert all(p.grad.isfinite().all() for p in loss.parameters())


def test_bad_input():
    with pytest.raises(ValueError, match='same classes.*got 2 from the learner and 3 from the sou'):
        HolisticLoss(2, 3)
    with pytest.raises(ValueError, match="kind must be one of hinge, wgan-gp; got 'gan'"):
        HolisticLoss(2, 2, kind='gan')
    with pytest.raises(ValueError, match='penalty_weight must be at least 0, got -1'):
        HolisticLoss(2, 2, penalty_weight=-1)
    loss = example()
    for function in (loss, loss.discriminator_loss):
        with pytest.raises(ValueError, match=r"learner's \(2, 2, 64, 64\) and the source's \(1, 2"):
            function(torch.zeros(2, 2, 64, 64), torch.zeros(1, 2, 64, 64))
