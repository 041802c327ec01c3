"""GradNorm against a slow implementation of the paper's algorithm 1, and closed forms."""

import pytest
import torch
from torch import nn

from mmkdml.models.weighting import GradNorm, WeightedLoss

ROWS = (
    WeightedLoss('', 1.0),
    WeightedLoss('s.loss_from_t.features', 1.0, 'features'),
    WeightedLoss('s.loss_from_t.predictions', 1.0, 'predictions'),
)
KEYS = ['s.loss', 's.loss_from_t.features', 's.loss_from_t.predictions']
SCALES = (0.02, 0.1, 0.005)


class Learner(nn.Module):
    """A shared layer and one layer for each loss."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.backbone = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
        self.heads = nn.ModuleList(nn.Linear(3, 2) for _ in SCALES)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        self.double()

    def values(self, step):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 4, generator=generator, dtype=torch.float64)
        shared = self.backbone(images)
        return [
            scale * (head(shared) - images[:, :2]).square().mean()
            for scale, head in zip(SCALES, self.heads, strict=True)
        ]


def grad_norm(member, rows=ROWS, **settings):
    built = GradNorm(dict(s=rows), dict(s=member), dict(s='backbone'), **settings)
    return built.double().train()


def total(log):
    return sum(value for key, value in log.items() if 'loss' in key)


def trained(steps, alpha, rate=0.02):
    member = Learner()
    module = grad_norm(member, alpha=alpha)
    optimizer = torch.optim.SGD([*member.parameters(), *module.parameters()], lr=rate)
    weights = []
    for step in range(steps):
        optimizer.zero_grad()
        log = module(dict(zip(KEYS, member.values(step), strict=True)), dict(s=member))
        weights.append([log[key].item() for key in log if 'weight' in key and 'loss' not in key])
        total(log).backward()
        optimizer.step()
    return weights, member


def reference(steps, alpha, rate=0.02):
    """Algorithm 1 of the paper, with two explicit updates and a graph of the norms."""
    member, initial = Learner(), None
    weights, shared = torch.ones(3, dtype=torch.float64, requires_grad=True), None
    found = []
    for step in range(steps):
        found.append(weights.tolist())
        values = member.values(step)
        initial = initial or [value.item() for value in values]
        shared = member.backbone[2].weight
        norms = torch.stack(
            [
                torch.autograd.grad(w * value, shared, create_graph=True)[0].norm()
                for w, value in zip(weights, values, strict=True)
            ]
        )
        progress = torch.tensor(
            [value.item() / first for value, first in zip(values, initial, strict=True)]
        ).double()
        target = (norms.mean() * (progress / progress.mean()) ** alpha).detach()
        by_weight = torch.autograd.grad((norms - target).abs().sum(), weights, retain_graph=True)[0]
        loss = sum(w.item() * value for w, value in zip(weights, values, strict=True))
        own = [*member.parameters()]
        gradients = torch.autograd.grad(loss, own)
        with torch.no_grad():
            weights -= rate * by_weight
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter -= rate * gradient
            weights *= 3 / weights.sum()
    return found, member


@pytest.mark.parametrize('alpha', [0.0, 0.12, 1.5])
def test_equals_the_algorithm_of_the_paper(alpha):
    found, member = trained(25, alpha)
    expected, other = reference(25, alpha)
    assert torch.tensor(found).double() == pytest.approx(torch.tensor(expected), abs=1e-6)
    assert min(map(min, expected)) > 0  # the paper has no limit
    assert max(abs(w - 1) for w in expected[-1]) > 0.1
    for one, its in zip(member.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, its, rtol=1e-6, atol=1e-9)


def test_gradient_norms_become_equal():
    """With losses <c_i, W> and alpha = 0, w_i becomes proportional to 1 / ||c_i||."""
    norms = torch.tensor([1.0, 3.0, 0.5])
    member = nn.Module()
    member.backbone = nn.Linear(3, 1)
    module = grad_norm(member.double(), alpha=0.0)
    optimizer = torch.optim.SGD(module.parameters(), lr=5e-3)
    for _ in range(400):
        optimizer.zero_grad()
        values = norms * member.backbone.weight[0]
        log = module(dict(zip(KEYS, values, strict=True)), dict(s=member))
        total(log).backward()
        optimizer.step()
    expected = (1 / norms) * 3 / (1 / norms).sum()
    assert module.factors['s'].tolist() == pytest.approx(expected.tolist(), abs=0.03)
    assert expected.tolist() == pytest.approx([0.9, 0.3, 1.8])


def test_factors_stay_positive_and_keep_their_sum():
    member = Learner()
    module = grad_norm(member)
    with torch.no_grad():
        module.factors['s'].copy_(torch.tensor([-5.0, 1.0, 3.0]))
    log = module(dict(zip(KEYS, member.values(0), strict=True)), dict(s=member))
    found = [log[f's.weight_{name}'].item() for name in ('supervised', 'from_t.features')]
    assert found == pytest.approx([0.0, 0.75])
    assert module.factors['s'].sum().item() == pytest.approx(3)


def test_only_the_weights_get_gradients_of_their_loss():
    member = Learner()
    module = grad_norm(member)
    log = module(dict(zip(KEYS, member.values(0), strict=True)), dict(s=member))
    log['loss_learned_weights'].backward()
    assert module.factors['s'].grad.abs().min() > 0
    assert all(parameter.grad is None for parameter in member.parameters())


def test_scale_of_the_losses_changes_nothing():
    gradients = []
    for scale in (1.0, 2.0**16):
        member = Learner()
        module = grad_norm(member)
        module.loss_scale = scale
        log = module(dict(zip(KEYS, member.values(0), strict=True)), dict(s=member))
        log['loss_learned_weights'].backward()
        gradients.append(module.factors['s'].grad)
    assert torch.equal(*gradients)


def test_validation_does_not_change_the_state():
    member = Learner()
    module = grad_norm(member)
    for mode, grad in ((False, True), (True, False)):
        module.train(mode)
        with torch.set_grad_enabled(grad):
            log = module(dict(zip(KEYS, member.values(0), strict=True)), dict(s=member))
        assert log['loss_learned_weights'].item() == 0
        assert module.initial_s.isnan().all()


@pytest.mark.parametrize(
    ('settings', 'names'),
    [
        ({}, ['backbone.2.weight']),
        (dict(layer='backbone.0'), ['backbone.0.weight', 'backbone.0.bias']),
        (dict(layer=dict(s='backbone.2')), ['backbone.2.weight', 'backbone.2.bias']),
    ],
)
def test_shared_parameters(settings, names):
    assert grad_norm(Learner(), **settings).shared == dict(s=names)


@pytest.mark.parametrize(
    ('settings', 'fact'),
    [
        (dict(alpha=-1), 'alpha.*-1'),
        (dict(alpha='1'), "alpha.*'1'"),
        (dict(layer='neck'), "'neck'.*s has no such module"),
        (dict(layer='backbone.1'), "'backbone.1'.*trains no parameters"),
        (dict(layer=dict(x='backbone')), r'learners \(s\), got x'),
        (dict(rows=ROWS[:1]), 'at least two losses.*s has one: supervised'),
    ],
)
def test_invalid_arguments_raise(settings, fact):
    with pytest.raises(ValueError, match=fact):
        grad_norm(Learner(), **settings)


def test_checkpointed_activations_raise():
    member = Learner()
    member.backbone.with_cp = True
    with pytest.raises(ValueError, match='with_cp=False in s'):
        grad_norm(member)


def test_layer_that_a_loss_does_not_reach_raises():
    member = Learner()
    module = grad_norm(member, layer='heads.1')
    log = dict(zip(KEYS, member.values(0), strict=True))
    with pytest.raises(ValueError, match='the supervised loss does not depend on heads.1.weight'):
        module(log, dict(s=member))
