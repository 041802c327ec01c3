"""Every registered loss under automatic mixed precision."""

import math
from contextlib import nullcontext

import pytest
import torch

import mmkdml
import mmkdml.models  # noqa: F401
from mmkdml.registry import MODELS

HALVES = [torch.bfloat16, torch.float16]
TWO_MAPS = [(2, 4, 8, 8), (2, 8, 4, 4)]
CHANNELS = dict(learner_channels=4, source_channels=4)
# For each loss its arguments, the shapes of its inputs, and what it takes besides.
LOSSES = {
    'AttentionTransferLoss': ({}, [(2, 4, 8, 8)], None),
    'CategorySimilarityLoss': ({}, [(2, 3, 8, 8)], None),
    'ChannelWiseLoss': (dict(learner_channels=4, source_channels=6), [(2, 4, 8, 8)], None),
    'FeatureMSELoss': ({}, [(2, 4, 8, 8)], None),
    'FitNetLoss': ({}, [(2, 4, 8, 8)], None),
    'FocalDiceLoss': ({}, [(2, 3, 8, 8)], 'labels'),
    'FocalSmoothDiceLoss': ({}, [(2, 3, 8, 8)], 'labels'),
    'HolisticLoss': (dict(learner_channels=3, source_channels=3, width=8), [(2, 3, 64, 64)], None),
    'ImportanceMapLoss': ({}, [(2, 4, 8, 8)], None),
    'IntraClassVariationLoss': (dict(num_classes=3), [(2, 4, 8, 8)], 'truth'),
    'PairWiseLoss': ({}, [(2, 4, 8, 8)], None),
    'PixelSimilarityLoss': ({}, TWO_MAPS, None),
    'PixelWiseLoss': ({}, [(2, 3, 8, 8)], None),
    'PredictionKLLoss': ({}, [(4, 3)], None),
    'RegionAffinityLoss': (dict(num_classes=3), [(2, 4, 8, 8)], 'truth'),
    'SRRLLoss': (CHANNELS, [(2, 4, 8, 8)], 'classifier'),
    'SemCKDLoss': (
        dict(learner_channels=[4, 8], source_channels=[4, 8], batch_size=2, factor=1),
        TWO_MAPS,
        None,
    ),
    'SimKDLoss': ({}, [(2, 4, 8, 8)], None),
    'SimilarityPreservingLoss': ({}, [(4, 4, 8, 8)], None),
    'VariationalInformationLoss': (CHANNELS, [(2, 4, 8, 8)], None),
}


def tensor(shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def computed(name, dtype, autocast):
    """The terms of a loss of inputs of a type, with the gradient of the learner's side."""
    options, shapes, extra = LOSSES[name]
    torch.manual_seed(0)
    loss = MODELS.build(dict(type=name, **options)).eval()
    learners = [tensor(shape, 1).to(dtype).requires_grad_() for shape in shapes]
    sources = [tensor(shape, 2).to(dtype) for shape in shapes]
    if name == 'ChannelWiseLoss':
        sources = [tensor((2, 6, 8, 8), 2).to(dtype)]
    sides = [side if len(side) > 1 else side[0] for side in (learners, sources)]
    batch = learners[0]
    labels = (torch.arange(len(batch) * 64) % 3).view(len(batch), 8, 8)
    weight = tensor((5, 4), 3)
    given = {
        None: (),
        'truth': (labels,),
        'classifier': (lambda x: torch.nn.functional.linear(x, weight.to(x.dtype)),),
    }.get(extra, ())
    with autocast:
        terms = [loss(learners[0], labels) if extra == 'labels' else loss(*sides, *given)]
        if hasattr(loss, 'discriminator_loss'):
            terms.append(loss.discriminator_loss(*sides))
    terms[0].backward()
    return terms, [side.grad for side in learners]


def test_no_registered_loss_is_left_out():
    registered = {
        name
        for name, kind in MODELS.module_dict.items()
        if kind.__module__.startswith('mmkdml.models.losses')
    }
    assert registered == set(LOSSES)


@pytest.mark.parametrize('name', LOSSES)
@pytest.mark.parametrize('dtype', HALVES, ids=str)
@pytest.mark.parametrize('inputs', ['half', 'float'])
def test_a_loss_is_float32_and_close_to_that_of_float32(name, dtype, inputs):
    # Values are rounded to the type first, so that only the computation differs.
    autocast = torch.autocast('cpu', dtype=dtype)
    terms, gradients = computed(name, dtype if inputs == 'half' else torch.float32, autocast)
    exact, _ = computed(name, torch.float32, nullcontext())
    for term, expected in zip(terms, exact, strict=True):
        assert term.dtype == torch.float32
        assert math.isclose(term.item(), expected.item(), rel_tol=0.05, abs_tol=0.02)
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize('kind', ['hinge', 'wgan-gp'])
def test_the_discriminators_error_is_float32(kind):
    torch.manual_seed(0)
    loss = MODELS.build(
        dict(type='HolisticLoss', learner_channels=2, source_channels=2, width=8, kind=kind)
    ).eval()
    sides = tensor((2, 2, 64, 64), 1), tensor((2, 2, 64, 64), 2)
    torch.manual_seed(1)
    exact = loss.discriminator_loss(*sides)
    torch.manual_seed(1)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        value = loss.discriminator_loss(*sides)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=0.05)
