from functools import partial

import numpy as np
import pytest
import torch

from mmkdml.functional import feature_correlation, relation_difference
from mmkdml.functional.correlation import correlations


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def pearson(a, b):
    return np.corrcoef(a, b)[0, 1]


@pytest.mark.parametrize('dim', [0, 1])
def test_correlations_match_numpy(dim):
    a, b = normal(5, 7), normal(5, 7, seed=1)
    rows = [side.movedim(dim, 1).numpy() for side in (a, b)]
    expected = [pearson(*row) for row in zip(*rows, strict=True)]
    torch.testing.assert_close(correlations(a, b, dim), torch.tensor(expected))


@pytest.mark.parametrize(('beta', 'gamma', 'temperature'), [(1, 1, 1), (2, 0, 4), (0, 3, 0.5)])
@pytest.mark.parametrize('shape', [(5, 3), (2, 3, 4, 5), (2, 1, 4, 5)])
def test_relations_match_numpy(beta, gamma, temperature, shape):
    sides = normal(*shape), normal(*shape, seed=1)
    tables = []
    for logits in sides:
        rows = logits.movedim(1, -1).reshape(-1, shape[1]).numpy() / temperature
        rows = np.hstack([np.zeros_like(rows), rows]) if shape[1] == 1 else rows
        tables.append(np.exp(rows) / np.exp(rows).sum(1, keepdims=True))
    between = 1 - np.mean([pearson(*rows) for rows in zip(*tables, strict=True)])
    within = 1 - np.mean(
        [pearson(*columns) for columns in zip(*(x.T for x in tables), strict=True)]
    )
    value = relation_difference(*sides, beta, gamma, temperature)
    expected = temperature**2 * (beta * between + gamma * within)
    # The code adds 1e-8 to the product of the lengths, which may be small at T = 4.
    assert value.item() == pytest.approx(expected, rel=1e-4)


def test_relations_depend_on_neither_scale_nor_shift_of_probabilities():
    source = normal(6, 4, seed=1)
    learner = (2 * normal(6, 4)).softmax(1)
    mixed = 0.3 * learner + 0.7 / 4  # an affine map that keeps sums of 1
    torch.testing.assert_close(
        relation_difference(mixed.log(), source),
        relation_difference(learner.log(), source),
        rtol=1e-6,
        atol=0,
    )
    value = relation_difference(mixed.log(), learner.log())
    assert value.item() == pytest.approx(0, abs=1e-6)


def test_relations_depend_on_neither_order_of_samples_nor_of_classes():
    learner, source = normal(6, 4), normal(6, 4, seed=1)
    value = relation_difference(learner, source)
    rows, columns = torch.randperm(6), torch.randperm(4)
    changed = relation_difference(learner[rows][:, columns], source[rows][:, columns])
    torch.testing.assert_close(changed, value)


def test_opposite_predictions_have_the_largest_value():
    learner = torch.tensor([[5.0, -5.0], [-5.0, 5.0]], dtype=torch.float64)
    assert relation_difference(learner, -learner, 2, 3).item() == pytest.approx(2 * (2 + 3))
    assert relation_difference(learner, learner, 2, 3).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(('beta', 'gamma', 'moved'), [(1, 0, False), (0, 1, True)])
def test_relations_between_two_classes_have_no_gradient(beta, gamma, moved):
    for shape in ((6, 2), (2, 1, 4, 5)):
        learner = normal(*shape).requires_grad_()
        relation_difference(learner, normal(*shape, seed=1), beta, gamma).backward()
        assert (learner.grad.abs().max() > 1e-4) == moved


def test_batch_of_one_compares_classes_only():
    learner, source = normal(1, 5).requires_grad_(), normal(1, 5, seed=1)
    value = relation_difference(learner, source, beta=2, gamma=3)
    expected = 3 + relation_difference(learner, source, beta=2, gamma=0)
    torch.testing.assert_close(value, expected)
    value.backward()
    assert learner.grad.isfinite().all()
    assert learner.grad.abs().max() > 0


def test_uniform_predictions_have_no_gradient():
    learner = torch.full((4, 3), 0.7).requires_grad_()
    value = relation_difference(learner, normal(4, 3).float())
    assert value == 2
    value.backward()
    assert torch.equal(learner.grad, torch.zeros(4, 3))


def test_feature_correlation_matches_numpy():
    learner, source = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
    sides = [side.transpose(0, 1).flatten(1).numpy() for side in (learner, source)]
    mean = np.mean([pearson(*rows) for rows in zip(*sides, strict=True)])
    value = feature_correlation(learner, source).item()
    assert value == pytest.approx((1 - mean) * 39 / 40, rel=1e-5)


def test_feature_correlation_depends_on_neither_scale_nor_shift_of_channels():
    learner, source = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
    scales = torch.tensor([0.1, 1.0, 30.0]).view(3, 1, 1)
    compare = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-9)
    value = feature_correlation(learner, source)
    compare(feature_correlation(scales * learner - 2, source), value)
    compare(feature_correlation(learner, scales * source + 5), value)
    compare(feature_correlation(scales * source + 5, source), torch.zeros_like(value))
    compare(feature_correlation(-source, source), 2 * 39 / 40 * torch.ones_like(value))


def test_larger_and_smaller_maps_are_resized_to_the_source():
    learner, source = normal(2, 3, 2, 4), normal(2, 3, 4, 6, seed=1)
    resized = torch.nn.functional.interpolate(learner, (4, 6), mode='bilinear')
    expected = feature_correlation(resized, source)
    torch.testing.assert_close(feature_correlation(learner, source), expected)
    assert feature_correlation(source, learner).isfinite()


def test_dead_channel_has_no_gradient():
    learner = normal(2, 3, 4, 5)
    learner[:, 1] = 0
    learner.requires_grad_()
    source = normal(2, 3, 4, 5, seed=1)
    feature_correlation(learner, source).backward()
    assert torch.equal(learner.grad[:, 1], torch.zeros(2, 4, 5).double())
    assert learner.grad[:, 0].abs().max() > 0


def test_one_value_per_channel_is_constant():
    learner, source = normal(1, 3, 1, 1), normal(1, 3, 1, 1, seed=1)
    assert feature_correlation(learner, source) == 0
