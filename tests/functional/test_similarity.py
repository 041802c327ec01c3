import math

import pytest
import torch

from mmkdml.functional import calibrated_error, sample_similarities, similarity_difference


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def slow_rows(features):
    rows = [sample.flatten().tolist() for sample in features]
    table = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in rows] for p in rows]
    return [[value / math.sqrt(sum(v**2 for v in row)) for value in row] for row in table]


def slow_difference(learner, source):
    own, other = slow_rows(learner), slow_rows(source)
    count = len(own)
    return (
        sum((own[i][j] - other[i][j]) ** 2 for i in range(count) for j in range(count)) / count**2
    )


class TestSimilarityPreserving:
    @pytest.mark.parametrize('count', [2, 5])
    @pytest.mark.parametrize('shapes', [((3, 2, 2), (4, 3, 1)), ((3,), (5,)), ((2, 3), (4,))])
    def test_matches_explicit_sums(self, shapes, count):
        learner, source = drawn(count, *shapes[0]), drawn(count, *shapes[1], seed=1)
        value = similarity_difference(learner, source)
        assert value.shape == ()
        assert value.item() == pytest.approx(slow_difference(learner, source), rel=1e-10)

    def test_closed_form(self):
        # Equal samples have rows (1, 1) / sqrt(2), orthogonal samples (1, 0).
        alike, apart = torch.ones(2, 3), torch.eye(2)
        expected = ((1 - math.sqrt(0.5)) ** 2 + 0.5) / 2
        assert similarity_difference(alike, apart).item() == pytest.approx(expected)

    def test_invariances(self):
        learner, source = drawn(5, 3, 2, 2), drawn(5, 4, 3, 3, seed=1)
        value = similarity_difference(learner, source)
        assert value > 1e-3
        assert similarity_difference(learner, learner.clone()) == 0
        order = torch.tensor([3, 0, 4, 2, 1])
        for other in (
            similarity_difference(learner[order], source[order]),
            similarity_difference(source, learner),
            similarity_difference(-7 * learner, 0.1 * source),
            similarity_difference(1e-4 * learner, source),
            similarity_difference(learner.flip(1, 2), source.flip(3)),
        ):
            torch.testing.assert_close(other, value)
        # Reordering only one side changes the value.
        assert abs(similarity_difference(learner[order], source) - value) > 1e-3

    @pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
    def test_products_beyond_float16(self, dtype):
        # 300 squared is beyond float16.
        a, b = drawn(3, 5).mul(300).to(dtype), drawn(3, 5, seed=1).mul(300).to(dtype)
        value = similarity_difference(a, b)
        assert value.dtype == torch.float32
        assert torch.equal(value, similarity_difference(a.float(), b.float()))
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert torch.equal(similarity_difference(a, b), value)

    @pytest.mark.parametrize('number', [0, 1e-5, 1, 1e4])
    def test_samples_of_zeros_stay_finite(self, number):
        some_zero = drawn(3, 4, 8, 8).float() * number
        some_zero[1] = 0
        for features in (torch.full((3, 4, 8, 8), float(number)), some_zero):
            learner = features.clone().requires_grad_()
            value = similarity_difference(learner, drawn(3, 5, seed=1).float())
            value.backward()
            assert value.isfinite()
            assert learner.grad.isfinite().all()


def test_similarities_are_scalar_products():
    features = drawn(3, 2, 2, 2)
    table = sample_similarities(features)
    for i in range(3):
        for j in range(3):
            assert table[i, j].item() == pytest.approx((features[i] * features[j]).sum().item())


class TestCalibratedError:
    def slow(self, queries, keys, errors, softness):
        total = 0.0
        for q, k, e in zip(queries.tolist(), keys.tolist(), errors.tolist(), strict=True):
            for i, query in enumerate(q):
                powers = []
                for key in k:
                    product = sum(a * b for a, b in zip(query, key, strict=True))
                    powers.append(
                        math.exp(product / math.hypot(*query) / math.hypot(*key) / softness)
                    )
                total += sum(p * v for p, v in zip(powers, e[i], strict=True)) / sum(powers)
        return total / (len(queries) * queries.shape[1])

    @pytest.mark.parametrize('softness', [0.2, 1, 3.0])
    @pytest.mark.parametrize(('own', 'other'), [(2, 3), (1, 2), (3, 1), (1, 1)])
    def test_matches_explicit_sums(self, own, other, softness):
        arguments = drawn(4, own, 5), drawn(4, other, 5, seed=1), drawn(4, own, other).square()
        value = calibrated_error(*arguments, softness)
        assert value.shape == ()
        assert value.item() == pytest.approx(self.slow(*arguments, softness), rel=1e-10)
        assert calibrated_error(*arguments) == calibrated_error(*arguments, softness=1.0)

    def test_equal_errors_are_returned_for_any_attention(self):
        value = calibrated_error(drawn(4, 2, 5), drawn(4, 3, 5, seed=1), torch.full((4, 2, 3), 7.0))
        assert value.item() == pytest.approx(7)

    def test_softness_moves_from_best_match_to_mean(self):
        keys = torch.eye(3)[None]
        errors = torch.tensor([[[1.0, 10.0, 100.0]]])
        query = torch.tensor([[[0.1, 0.9, 0.2]]])
        assert calibrated_error(query, keys, errors, 1e-3).item() == pytest.approx(10)
        assert calibrated_error(query, keys, errors, 1e6).item() == pytest.approx(37, rel=1e-4)

    def test_zero_and_huge_embeddings_stay_finite(self):
        for number in (0.0, 1e10):
            queries = torch.full((2, 2, 3), number, requires_grad=True)
            value = calibrated_error(queries, drawn(2, 3, 3).float(), torch.ones(2, 2, 3))
            value.backward()
            assert value.item() == pytest.approx(1)
            assert queries.grad.isfinite().all()
