import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mmkdml.models.losses import SelfAttentionDiscriminator
from mmkdml.models.losses.discriminator import SelfAttention


def maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def example(num_logits=2):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SelfAttentionDiscriminator(num_logits, width=4)


def test_attention_matches_explicit_sums():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = SelfAttention(16)
    x = maps(2, 16, 2, 3)
    assert torch.equal(layer(x), x)  # the identity at initialization
    nn.init.constant_(layer.share, 0.7)
    result = layer(x)
    query, key, value = (
        conv(x).flatten(2).tolist() for conv in (layer.query, layer.key, layer.value)
    )
    for n in range(2):
        for i in range(6):
            products = [sum(query[n][c][i] * key[n][c][j] for c in range(2)) for j in range(6)]
            shares = torch.tensor(products).softmax(0).tolist()
            for c in range(16):
                attended_value = sum(share * value[n][c][j] for j, share in enumerate(shares))
                expected = 0.7 * attended_value + x[n, c].flatten()[i].item()
                assert result[n, c].flatten()[i].item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize('num_logits', [1, 2, 5])
@pytest.mark.parametrize(
    ('size', 'scores'), [((64, 64), (1, 1)), ((65, 79), (1, 1)), ((96, 128), (3, 5))]
)
def test_number_of_scores(size, scores, num_logits):
    assert example(num_logits)(maps(2, num_logits, *size)).shape == (2, 1, *scores)


def test_layers_match_the_reference():
    model = SelfAttentionDiscriminator(19)
    convolutions = [m for m in model.layers if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (19, 64),
        (64, 128),
        (128, 256),
        (256, 512),
        (512, 1),
    ]
    assert all(c.kernel_size == (4, 4) for c in convolutions)
    assert [c.stride for c in convolutions] == [(2, 2)] * 4 + [(1, 1)]
    kinds = [type(m).__name__ for m in model.layers]
    block = ['ParametrizedConv2d', 'LeakyReLU']
    attended = [*block, 'SelfAttention']
    assert kinds == ['BatchNorm2d', *block, *block, *attended, *attended, 'Conv2d']
    assert all(m.negative_slope == 0.1 for m in model.layers if isinstance(m, nn.LeakyReLU))


def test_strided_convolutions_have_spectral_norm_1():
    model = example().eval()
    for layer in model.layers:
        if type(layer).__name__ == 'ParametrizedConv2d':
            largest = torch.linalg.svdvals(layer.weight.flatten(1)).max().item()
            assert largest == pytest.approx(1, abs=0.1)
            original = layer.parametrizations.weight.original.flatten(1)
            direction = F.normalize(layer.weight.flatten(), dim=0) @ F.normalize(
                original.flatten(), dim=0
            )
            assert direction.item() == pytest.approx(1)


def test_all_parameters_get_gradients():
    model = example()
    x = maps(2, 2, 64, 64).requires_grad_()
    for layer in model.layers:
        if isinstance(layer, SelfAttention):
            nn.init.constant_(layer.share, 0.5)
    model(x).square().sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    # The softmax is invariant to the key's bias, which is the same at all positions.
    without = {n for n, p in model.named_parameters() if p.grad.abs().max() < 1e-7}
    assert all(name.endswith('key.bias') for name in without)
    assert (x.grad != 0).any()
