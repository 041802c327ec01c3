import math

import pytest
import torch
from torch import nn

from mmkdml.registry import MODELS


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


LEARNER = [gen((8, 6, 8, 8), 0.011, 0.2, 1, 0.3), gen((8, 5, 4, 4), 0.019, 0.4, 1, 0.3)]
SOURCE = [gen((8, 10, 4, 4), 0.023, 0.5, 1, 0.3), gen((8, 12, 8, 8), 0.013, 0.8, 1, 0.3)]


def build(**options):
    config = dict(learner_channels=[6, 5], source_channels=[10, 12], batch_size=8)
    loss = MODELS.build(dict(type='SemCKDLoss', **{**config, **options})).double()
    affine = {
        id(p) for m in loss.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()
    }
    with torch.no_grad():
        for number, parameter in enumerate(loss.parameters()):
            if id(parameter) not in affine:
                parameter.copy_(gen(parameter.shape, 0.7, 0.3 + number, 0.1))
    return loss


def slow_embedding(features, layers, batch_size):
    """Embed the similarities between the samples of a batch, padded with 0, as N lists."""
    rows = [sample.flatten().tolist() for sample in features]
    out = []
    for own in rows:
        vector = [sum(a * b for a, b in zip(own, other, strict=True)) for other in rows]
        vector += [0.0] * (batch_size - len(rows))
        for index in (0, 2):
            weight, bias = layers[index].weight.tolist(), layers[index].bias.tolist()
            vector = [
                sum(w * v for w, v in zip(line, vector, strict=True)) + b
                for line, b in zip(weight, bias, strict=True)
            ]
            if index == 0:
                vector = [max(v, 0) for v in vector]
        length = math.hypot(*vector)
        out.append([v / length for v in vector])
    return out


def slow_norm_relu(maps):
    mean = maps.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((maps - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    return ((maps - mean) / (variance + 1e-5).sqrt()).clamp_min(0)


def slow_pooled(maps, size):
    k = maps.shape[2] // size
    return maps.unfold(2, k, k).unfold(3, k, k).mean(dim=(4, 5)) if k > 1 else maps


def slow_projection(maps, layers):
    """Compute convolutions as sums of shifted maps."""
    height, width = maps.shape[2:]
    maps = slow_norm_relu(torch.einsum('oi,nihw->nohw', layers[0].weight[:, :, 0, 0], maps))
    padded = torch.zeros(*maps.shape[:2], height + 2, width + 2, dtype=maps.dtype)
    padded[..., 1:-1, 1:-1] = maps
    maps = sum(
        torch.einsum(
            'oi,nihw->nohw',
            layers[3].weight[:, :, y, x],
            padded[..., y : y + height, x : x + width],
        )
        for y in range(3)
        for x in range(3)
    )
    return torch.einsum('oi,nihw->nohw', layers[6].weight[:, :, 0, 0], slow_norm_relu(maps))


@torch.no_grad()
def slow(loss, learners, sources, softness=1.0):
    queries = [
        slow_embedding(maps, layers, loss.batch_size)
        for maps, layers in zip(learners, loss.queries, strict=True)
    ]
    keys = [
        slow_embedding(maps, layers, loss.batch_size)
        for maps, layers in zip(sources, loss.keys, strict=True)
    ]
    total, count = 0.0, len(learners[0])
    for i, own in enumerate(learners):
        errors = []
        for j, other in enumerate(sources):
            size = min(own.shape[2], other.shape[2])
            projected = slow_projection(
                slow_pooled(own, size), loss.projections[i * len(sources) + j]
            )
            errors.append(
                ((projected - slow_pooled(other, size)) ** 2).mean(dim=(1, 2, 3)).tolist()
            )
        for n in range(count):
            powers = [
                math.exp(sum(a * b for a, b in zip(queries[i][n], key[n], strict=True)) / softness)
                for key in keys
            ]
            total += sum(p * e[n] for p, e in zip(powers, errors, strict=True)) / sum(powers)
    return total / (count * len(learners))


@pytest.mark.parametrize('softness', [1.0, 0.3])
def test_matches_explicit_sums(softness):
    loss = build(softness=softness)
    value = loss(LEARNER, SOURCE)
    assert value.shape == ()
    assert value.item() == pytest.approx(slow(loss, LEARNER, SOURCE, softness), rel=1e-9)


@pytest.mark.parametrize(
    ('own', 'other'), [((0,), (0, 1)), ((0, 1), (1,)), ((1,), (0,)), ((1, 0), (0, 1))]
)
def test_any_numbers_of_taps(own, other):
    learners, sources = [LEARNER[i] for i in own], [SOURCE[i] for i in other]
    loss = build(
        learner_channels=[maps.shape[1] for maps in learners],
        source_channels=[maps.shape[1] for maps in sources],
    )
    expected = slow(loss, learners, sources)
    assert loss(learners, sources).item() == pytest.approx(expected, rel=1e-9)


def test_single_taps_need_no_list():
    loss = build(learner_channels=6, source_channels=10)
    assert torch.equal(loss(LEARNER[0], SOURCE[0]), loss(LEARNER[:1], tuple(SOURCE[:1])))


@pytest.mark.parametrize('count', [1, 3, 7])
def test_smaller_batch_is_padded_with_zero_similarities(count):
    loss = build()
    learners, sources = ([maps[:count] for maps in side] for side in (LEARNER, SOURCE))
    value = loss(learners, sources)
    assert value.item() == pytest.approx(slow(loss, learners, sources), rel=1e-9)
    value.backward()
    assert all(parameter.grad.isfinite().all() for parameter in loss.parameters())


def test_all_parameters_get_gradients():
    loss = build()
    learners = [maps.clone().requires_grad_() for maps in LEARNER]
    loss(learners, SOURCE).backward()
    assert all((maps.grad != 0).any() for maps in learners)
    assert all((parameter.grad != 0).any() for parameter in loss.parameters())
    # Two queries and two keys have 2 x (weight, bias) each; four projections have three weights
    # and two batch norms each.
    assert len(list(loss.parameters())) == 4 * 4 + 4 * 7


def test_widths():
    loss = build(factor=2)
    assert [layer.weight.shape for layer in loss.queries[0] if hasattr(layer, 'weight')] == [
        (8, 8),
        (4, 8),
    ]
    assert loss.projections[1][0].weight.shape == (24, 6, 1, 1)
    assert loss.projections[1][3].weight.shape == (24, 24, 3, 3)
    assert loss.projections[1][6].weight.shape == (12, 24, 1, 1)
    assert not loss.requires_same_shape
    assert 'batch_size=8, softness=1.0' in repr(loss)


def test_gradient_of_the_learner():
    loss = build(learner_channels=[2, 1], source_channels=[2], batch_size=4)
    learners = [
        gen((3, 2, 2, 2), 0.9, 0.2).requires_grad_(),
        gen((3, 1, 4, 4), 0.5, 1).requires_grad_(),
    ]
    source = gen((3, 2, 2, 2), 0.3, 0.5)
    assert torch.autograd.gradcheck(lambda *maps: loss(list(maps), source), learners)
