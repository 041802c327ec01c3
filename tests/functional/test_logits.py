import math

import pytest
import torch
import torch.nn.functional as F

from mmkdml.functional import decoupled_kl, prediction_kl, standardized_logits


def logits(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(shape, generator=generator, dtype=torch.float64)


def plain(learner, source, temperature):
    return prediction_kl(learner, source, temperature, 'source||learner', 'temperature_squared')


def by_hand(learner, source, label, alpha, beta, temperature):
    """Compute DKD of one sample from lists of numbers."""
    sides = []
    for values in (learner, source):
        powers = [math.exp(value / temperature) for value in values]
        sides.append([power / sum(powers) for power in powers])
    s, t = sides
    total = alpha * t[label] * math.log(t[label] / s[label])
    total += alpha * (1 - t[label]) * math.log((1 - t[label]) / (1 - s[label]))
    for own, other in ((a, b) for k, (a, b) in enumerate(zip(s, t, strict=True)) if k != label):
        own, other = own / (1 - s[label]), other / (1 - t[label])
        total += beta * other * math.log(other / own)
    return temperature**2 * total


@pytest.mark.parametrize(
    ('alpha', 'beta', 'temperature'), [(1, 8, 4), (1, 0.5, 1), (0, 1, 2), (3, 0, 2)]
)
def test_decoupled_kl_matches_explicit_sums(alpha, beta, temperature):
    learner, source, labels = logits(3, 5), logits(3, 5, seed=1), [4, 0, 2]
    expected = sum(
        by_hand(s.tolist(), t.tolist(), label, alpha, beta, temperature)
        for s, t, label in zip(learner, source, labels, strict=True)
    )
    value = decoupled_kl(learner, source, torch.tensor(labels), alpha, beta, temperature)
    assert value.item() == pytest.approx(expected / 3, rel=1e-12)


def test_decoupled_kl_weighted_by_the_sources_rest_is_plain_distillation():
    # The decomposition in the paper: KD = TCKD + (1 - p_true) * NCKD, sample by sample.
    learner, source, labels = logits(4, 5), logits(4, 5, seed=1), torch.tensor([0, 3, 1, 4])
    rests = 1 - (source / 2).softmax(1).gather(1, labels[:, None])[:, 0]
    total = sum(
        decoupled_kl(learner[[i]], source[[i]], labels[[i]], 1, rest, 2)
        for i, rest in enumerate(rests.tolist())
    )
    torch.testing.assert_close(total / 4, plain(learner, source, 2.0))


@pytest.mark.parametrize('shape', [(5, 2), (5, 1), (2, 2, 3, 4), (2, 1, 3, 4)])
@pytest.mark.parametrize('beta', [0, 8])
def test_decoupled_kl_of_two_classes_is_plain_distillation(shape, beta):
    learner, source = logits(*shape), logits(*shape, seed=1)
    labels = torch.arange(5) % 2 if len(shape) == 2 else torch.arange(24).view(2, 3, 4) % 2
    value = decoupled_kl(learner, source, labels, 0.5, beta, 4.0)
    torch.testing.assert_close(value, 0.5 * plain(learner, source, 4.0))


def test_decoupled_kl_of_maps_is_that_of_their_pixels():
    learner, source = logits(2, 4, 3, 5), logits(2, 4, 3, 5, seed=1)
    labels = torch.arange(30).view(2, 3, 5) % 4
    pixels = [side.movedim(1, -1).reshape(-1, 4) for side in (learner, source)]
    expected = decoupled_kl(*pixels, labels.flatten())
    torch.testing.assert_close(decoupled_kl(learner, source, labels), expected)
    larger = labels.repeat_interleave(2, 1).repeat_interleave(2, 2)
    torch.testing.assert_close(decoupled_kl(learner, source, larger), expected)
    labels[0] = 255
    expected = decoupled_kl(learner[1:], source[1:], labels[1:])
    torch.testing.assert_close(decoupled_kl(learner, source, labels), expected)
    assert decoupled_kl(learner, source, torch.full_like(labels, 255)) == 0
    labels[labels == 255] = 7
    value = decoupled_kl(learner, source, labels, ignore_index=7)
    torch.testing.assert_close(value, expected)


def test_decoupled_kl_depends_on_neither_shift_nor_order_of_classes():
    learner, source, labels = logits(4, 5), logits(4, 5, seed=1), torch.tensor([0, 3, 1, 4])
    value = decoupled_kl(learner, source, labels)
    torch.testing.assert_close(decoupled_kl(learner + 50, source - 90, labels), value)
    order = torch.tensor([3, 0, 4, 1, 2])
    places = order.argsort()[labels]
    torch.testing.assert_close(decoupled_kl(learner[:, order], source[:, order], places), value)
    assert decoupled_kl(learner, learner, labels) == pytest.approx(0, abs=1e-12)
    assert value > 0


def test_class_255_of_many_counts_by_default():
    sides = logits(2, 300), logits(2, 300, seed=1)
    labels = torch.tensor([255, 7])
    each = [decoupled_kl(*(x[i : i + 1] for x in (*sides, labels))) for i in (0, 1)]
    assert each[0] > 0
    torch.testing.assert_close(decoupled_kl(*sides, labels), sum(each) / 2)
    torch.testing.assert_close(decoupled_kl(*sides, labels, ignore_index=255), each[1])
    with pytest.raises(ValueError, match=r'Invalid labels: expected \[0, 10\), got \[7, 255\]'):
        decoupled_kl(*(x[:, :10] for x in sides), labels)


def test_single_sample_is_supported():
    learner, source = logits(1, 5), logits(1, 5, seed=1)
    assert decoupled_kl(learner, source, torch.tensor([2])).isfinite()
    assert standardized_logits(learner).isfinite().all()


@pytest.mark.parametrize('shape', [(4, 7), (2, 3, 4, 5)])
def test_standardized_logits_have_mean_0_and_deviation_1(shape):
    result = standardized_logits(logits(*shape))
    assert result.shape == shape
    torch.testing.assert_close(result.mean(1), torch.zeros_like(result[:, 0]))
    torch.testing.assert_close(result.std(1), torch.ones_like(result[:, 0]))


@pytest.mark.parametrize(
    'loss',
    [
        lambda a, b: plain(a, b, 2.0),
        lambda a, b: decoupled_kl(a, b, torch.tensor([0, 3, 1, 4])),
        lambda a, b: prediction_kl(a, b, 1.0),
        F.mse_loss,
    ],
)
def test_losses_of_standardized_logits_depend_on_neither_shift_nor_scale(loss):
    learner, source = logits(4, 5), logits(4, 5, seed=1)
    scales, shifts = torch.tensor([[0.1], [1.0], [3.0], [100.0]]), logits(4, 1, seed=2)
    value = loss(standardized_logits(learner), standardized_logits(source))
    changed = loss(standardized_logits(scales * learner + shifts), standardized_logits(9 * source))
    torch.testing.assert_close(changed, value, rtol=1e-5, atol=0)
    # A learner with the source's logits in another unit has learned everything.
    same = loss(standardized_logits(5 * source + shifts), standardized_logits(source))
    assert same.item() == pytest.approx(0, abs=1e-10)
    assert value > 0.01


def test_order_of_standardized_logits_is_kept():
    learner = logits(6, 8)
    assert torch.equal(standardized_logits(learner).argsort(1), learner.argsort(1))


def test_equal_logits_become_zero_without_a_gradient():
    learner = torch.full((3, 4), 0.1).requires_grad_()
    result = standardized_logits(learner)
    assert torch.equal(result, torch.zeros(3, 4))
    result.sum().backward()
    assert torch.equal(learner.grad, torch.zeros(3, 4))
