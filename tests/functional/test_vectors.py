import math

import pytest
import torch

from mmkdml.functional.vectors import directions, lengths, scalar_products, standardized


def vectors(*shape):
    rng = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize('dim', [0, 1, 2])
def test_lengths_and_directions(dim):
    x = vectors(2, 3, 4)
    expected = (x**2).sum(dim, keepdim=True).sqrt()
    torch.testing.assert_close(lengths(x, dim), expected)
    torch.testing.assert_close(directions(x, dim), x / expected)


def test_zero_vectors_stay_zero_without_gradient():
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6e-9, 8e-9]], dtype=torch.float64)
    assert lengths(x).flatten().tolist() == [5, math.inf, math.inf]
    assert lengths(x, shortest=1e-9)[2].item() == pytest.approx(1e-8)
    x.requires_grad_()
    unit = directions(x)
    assert unit.tolist() == [[0.6, 0.8], [0, 0], [0, 0]]
    unit.sum().backward()
    torch.testing.assert_close(x.grad[0], torch.tensor([0.032, -0.024]).double())
    assert (x.grad[1:] == 0).all()


def test_gradient():
    assert torch.autograd.gradcheck(directions, (vectors(3, 4).requires_grad_(),))


def test_scalar_products_ignore_autocast():
    a, b = vectors(2, 3, 5), vectors(2, 4, 5)
    torch.testing.assert_close(scalar_products(a, b), torch.einsum('nid,njd->nij', a, b))
    tiny = torch.full((1, 2), 1e-4)
    with torch.autocast('cpu', dtype=torch.float16):
        assert (tiny @ tiny.mT).dtype == torch.float16
        assert scalar_products(tiny, tiny).item() == pytest.approx(2e-8, rel=1e-6)


@pytest.mark.parametrize('dim', [0, 1, 2])
def test_standardized_vectors_have_mean_0_and_deviation_1(dim):
    result = standardized(7 + 3 * torch.randn(4, 5, 6, dtype=torch.float64), dim)
    torch.testing.assert_close(result.mean(dim), torch.zeros_like(result.mean(dim)))
    torch.testing.assert_close(result.std(dim), torch.ones_like(result.std(dim)))


@pytest.mark.parametrize('value', [0.0, 0.1, -3e4, 1e-12])
@pytest.mark.parametrize('number', [1, 3, 7])
def test_constant_vectors_become_zero_without_a_gradient(value, number):
    vectors = torch.full((2, number), value).requires_grad_()
    result = standardized(vectors)
    (gradient,) = torch.autograd.grad((result * torch.randn(2, number)).sum(), vectors)
    # The deviations are rounding errors, which must not be scaled up.
    assert result.abs().max() < 1e-6
    assert torch.equal(gradient, torch.zeros(2, number))
