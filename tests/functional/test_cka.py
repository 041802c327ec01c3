import itertools
import math

import numpy as np
import pytest
import torch

from mmkdml.functional.cka import centered_gram, linear_cka, unbiased_hsic


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kornblith(a, b):
    """Compute the definition from matrices of features by features in NumPy."""
    a, b = (side.flatten(1).numpy() for side in (a, b))
    a, b = (side - side.mean(axis=0) for side in (a, b))
    return np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)


def u_statistic(a, b):
    """Compute E[k_ij l_ij] + E[k_ij l_qr] - 2 E[k_ij l_iq] over all four different images."""
    terms = [
        a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q])
        for i, j, q, r in itertools.permutations(range(len(a)), 4)
    ]
    return float(sum(terms) / len(terms))


def stacked(*features):
    return torch.stack([centered_gram(one) for one in features])


class TestLinearCKA:
    @pytest.mark.parametrize('shapes', [((3, 2, 2), (5,)), ((2,), (2,)), ((40,), (3, 4, 4))])
    def test_matches_the_definition(self, shapes):
        a, b = drawn(9, *shapes[0]), drawn(9, *shapes[1], seed=1)
        value = linear_cka(a, b)
        assert value.shape == ()
        assert value.item() == pytest.approx(kornblith(a, b), rel=1e-12)
        assert linear_cka(b, a).item() == pytest.approx(value.item(), rel=1e-12)

    def test_closed_form(self):
        # One feature each: the squared correlation.
        a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 1.0, 3.0])
        assert linear_cka(a[:, None], b[:, None]).item() == pytest.approx(0.25)
        # A second, uncorrelated feature of the same variance: 1 / sqrt(2).
        first = torch.tensor([1.0, 1.0, -1.0, -1.0])
        both = torch.stack([first, torch.tensor([1.0, -1.0, 1.0, -1.0])], dim=1)
        assert linear_cka(first[:, None], both).item() == pytest.approx(math.sqrt(0.5))

    def test_invariances(self):
        a, b = drawn(8, 5), drawn(8, 4, seed=1)
        rotation = torch.linalg.qr(drawn(5, 5, seed=2)).Q
        value = linear_cka(a, b).item()
        for same in (a @ rotation, -3 * a, a + drawn(5, seed=3), a[:, torch.randperm(5)]):
            assert linear_cka(same, b).item() == pytest.approx(value, rel=1e-12)
            assert linear_cka(a, same).item() == pytest.approx(1, rel=1e-12)
        # Not invariant to the scale of one feature or the order of one side's images.
        for other in (a * torch.tensor([9.0, 1, 1, 1, 1]), a.roll(1, dims=0)):
            assert abs(linear_cka(other, b).item() - value) > 1e-3

    def test_constant_features_give_nan(self):
        assert linear_cka(torch.ones(5, 3), drawn(5, 2)).isnan()


class TestUnbiasedHSIC:
    def test_matches_the_u_statistic_of_all_pairs_of_layers(self):
        grams_a = stacked(drawn(6, 3), drawn(6, 2, 2, seed=1))
        grams_b = stacked(drawn(6, 4, seed=2), drawn(6, 1, seed=3), drawn(6, 9, seed=4))
        values = unbiased_hsic(grams_a, grams_b)
        assert values.shape == (2, 3)
        for i, j in itertools.product(range(2), range(3)):
            assert values[i, j].item() == pytest.approx(
                u_statistic(grams_a[i], grams_b[j]), rel=1e-9
            )

    @pytest.mark.parametrize('size', [4, 5])
    def test_mean_over_all_batches_equals_value_on_all_images(self, size):
        a, b = drawn(7, 6), drawn(7, 3, seed=1)
        batches = [
            unbiased_hsic(stacked(a[list(batch)]), stacked(b[list(batch)]))
            for batch in itertools.combinations(range(7), size)
        ]
        expected = unbiased_hsic(stacked(a), stacked(b))
        torch.testing.assert_close(torch.stack(batches).mean(dim=0), expected)
        assert torch.stack(batches).std() > 1e-3  # the batches differ

    def test_centering_only_changes_rounding(self):
        a, b = drawn(6, 3), drawn(6, 2, seed=1)
        plain = [(side @ side.mT)[None] for side in (a, b)]
        torch.testing.assert_close(unbiased_hsic(*plain), unbiased_hsic(stacked(a), stacked(b)))

    def test_unbiased_for_unrelated_representations(self):
        # 40 images of 500 features: the bias is large.
        pairs = [(drawn(40, 500, seed=seed), drawn(40, 500, seed=seed + 100)) for seed in range(5)]
        biased = np.mean([linear_cka(a, b).item() for a, b in pairs])
        unbiased = np.mean(
            [
                unbiased_hsic(stacked(a), stacked(b)).item()
                / unbiased_hsic(stacked(a), stacked(a)).item()
                for a, b in pairs
            ]
        )
        assert biased > 0.8
        assert abs(unbiased) < 0.1


def test_half_precision_is_converted_without_changing_inputs():
    features = (drawn(5, 3, 2) * 300).half()
    before = features.clone()
    gram = centered_gram(features)
    assert gram.dtype == torch.float64
    torch.testing.assert_close(gram, centered_gram(features.double()))
    torch.testing.assert_close(
        gram.sum(dim=0), torch.zeros(5, dtype=torch.float64), atol=1e-7, rtol=0
    )
    linear_cka(features, features)
    assert torch.equal(features, before)
    grams = stacked(drawn(5, 3))
    unbiased_hsic(grams, grams)
    assert torch.equal(grams, stacked(drawn(5, 3)))
