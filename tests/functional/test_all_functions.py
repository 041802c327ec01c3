"""Properties that all losses share: gradients, precision, extreme inputs."""

import math
from functools import partial

import pytest
import torch

import mmkdml.functional as functional
from mmkdml.functional import (
    attention_difference,
    attention_map,
    calibrated_error,
    category_similarity,
    channel_wise_kl,
    decoupled_kl,
    detection_divergence,
    discriminator_error,
    feature_correlation,
    feature_mse,
    focal_and_dice,
    focal_and_smooth_dice,
    focal_difference,
    importance_difference,
    intra_class_variation,
    learner_realism,
    masked_generation,
    pair_wise_difference,
    pixel_similarity,
    pixel_wise_divergence,
    prediction_kl,
    region_affinity,
    relation_difference,
    sample_similarities,
    similarity_difference,
    softmax_regression,
    standardized_logits,
    variational_information,
)
from mmkdml.functional.adversarial import ADVERSARIES
from mmkdml.functional.attention import ATTENTION_REFERENCES
from mmkdml.functional.divergence import DIRECTIONS, SCALES
from mmkdml.functional.segmentation import FOCAL_REFERENCES
from mmkdml.functional.structure import PAIR_WISE_REFERENCES, PIXEL_WISE_REFERENCES

MAP = (2, 3, 4, 6)
SMALL = (2, 3, 2, 3)
TRUTH = torch.tensor([0, 1, 2, 255]).repeat(2, 8, 3)
MASK = torch.tensor([[[True, False, True], [True, True, False]]]).repeat(2, 1, 1)
BOXES = [torch.tensor([[0.0, 0.4, 0.6, 0.9]]), torch.zeros(0, 4)]
WEIGHT = torch.linspace(-1, 1, 12).view(4, 3)


def classifier(features):
    return torch.nn.functional.linear(features, WEIGHT.to(features.dtype))


def layers(a, b, c, d):
    return pixel_similarity([a, b], [c, d])


def focal(logits, loss_terms=focal_and_dice, **options):
    return sum(loss_terms(logits, TRUTH[:, : logits.shape[2], : logits.shape[3]], **options))


def region(function):
    return lambda learner, source: function(learner, source, TRUTH, 3)


def decoupled(learner, source, **options):
    classes = max(learner.shape[1], 2)
    labels = TRUTH[:, : learner.shape[2], : learner.shape[3]] if learner.ndim == 4 else TRUTH[0, 0]
    labels = labels.where(labels == 255, labels % classes)
    return decoupled_kl(learner, source, labels[: len(learner)], **options)


def exact(tensor):
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def generated(learner, source, weight):
    kept = (torch.arange(12).view(2, 1, 2, 3) % 4 > 0).to(learner)

    def generate(features):
        with torch.autocast('cpu', enabled=False):
            return torch.einsum('oc,nchw->nohw', exact(weight), exact(features))

    return masked_generation(learner, source, kept, generate)


# The function with its options, and the shapes of its float arguments.
FUNCTIONS = {
    **{
        f'prediction_kl {direction} {scale} {shape}': (
            partial(prediction_kl, direction=direction, scale=scale),
            [shape, shape],
        )
        for direction in DIRECTIONS
        for scale in SCALES
        for shape in ((3, 4), (2, 1, 2, 2))
    },
    **{
        f'decoupled_kl {beta} {shape}': (partial(decoupled, beta=beta), [shape, shape])
        for beta, shape in ((8.0, (3, 4)), (0.5, (2, 3, 2, 2)), (8.0, (2, 1, 2, 2)))
    },
    **{
        f'relation_difference {temperature} {shape}': (
            partial(relation_difference, temperature=temperature),
            [shape, shape],
        )
        for temperature, shape in ((1.0, (4, 3)), (4.0, (2, 3, 2, 2)), (1.0, (2, 1, 2, 2)))
    },
    **{
        f'detection_divergence {box_loss} {channels}': (
            partial(detection_divergence, num_classes=3, box_loss=box_loss),
            [(2, channels, 4), (2, channels, 4)],
        )
        for box_loss, channels in (('auto', 7), ('auto', 15), ('giou', 15))
    },
    'feature_correlation': (feature_correlation, [SMALL, SMALL]),
    'feature_correlation resized': (feature_correlation, [SMALL, MAP]),
    'masked_generation': (generated, [SMALL, (2, 4, 2, 3), (4, 3)]),
    'standardized_logits': (lambda logits: standardized_logits(logits).pow(3).mean(), [(3, 4)]),
    'standardized_logits map': (lambda logits: standardized_logits(logits).pow(3).mean(), [SMALL]),
    **{
        f'{function.__name__} masked {options}': (
            partial(function, mask=MASK, **options),
            [SMALL, SMALL],
        )
        for function, options in (
            (prediction_kl, {}),
            (channel_wise_kl, {}),
            *((pixel_wise_divergence, dict(reference=one)) for one in PIXEL_WISE_REFERENCES),
        )
    },
    'feature_mse': (feature_mse, [SMALL, SMALL]),
    'attention_map': (lambda features: attention_map(features).square().mean(), [SMALL]),
    **{
        f'attention_difference {reference} {exponent}': (
            partial(attention_difference, reference=reference, exponent=exponent),
            [SMALL, (2, 2, 2, 3)],
        )
        for reference in ATTENTION_REFERENCES
        for exponent in (1, 1.5, 4)
    },
    **{
        f'focal_difference {temperature}': (
            partial(focal_difference, boxes=BOXES, temperature=temperature),
            [SMALL, SMALL],
        )
        for temperature in (0.5, 2.0)
    },
    'importance_difference': (importance_difference, [SMALL, (2, 5, 2, 3)]),
    'importance_difference resized': (importance_difference, [SMALL, (2, 5, 4, 3)]),
    'pixel_similarity': (layers, [(2, 2, 2, 4), (2, 1, 2, 2), (2, 3, 2, 4), (2, 1, 2, 2)]),
    'channel_wise_kl': (channel_wise_kl, [SMALL, SMALL]),
    'channel_wise_kl one logit': (channel_wise_kl, [(2, 1, 3, 4), (2, 1, 3, 4)]),
    'channel_wise_kl cold': (partial(channel_wise_kl, temperature=0.1), [SMALL, SMALL]),
    'category_similarity': (category_similarity, [(2, 2, 3, 4), (2, 2, 3, 4)]),
    'category_similarity one logit': (category_similarity, [(2, 1, 3, 4), (2, 1, 3, 4)]),
    'category_similarity cold': (partial(category_similarity, temperature=0.1), [SMALL, SMALL]),
    **{
        f'pixel_wise_divergence {reference} {shape[1]}': (
            partial(pixel_wise_divergence, reference=reference),
            [shape, shape],
        )
        for reference in PIXEL_WISE_REFERENCES
        for shape in (SMALL, (2, 1, 2, 3))
    },
    **{
        f'pair_wise_difference {reference}': (
            partial(pair_wise_difference, reference=reference),
            [(2, 2, 3, 4), (2, 3, 3, 4)],
        )
        for reference in PAIR_WISE_REFERENCES
    },
    'similarity_difference': (similarity_difference, [(3, 2, 2, 2), (3, 4)]),
    'sample_similarities': (lambda x: sample_similarities(x).mean(), [(3, 4)]),
    'calibrated_error': (calibrated_error, [(2, 2, 3), (2, 3, 3), (2, 2, 3)]),
    'intra_class_variation': (region(intra_class_variation), [(2, 2, 2, 4), (2, 3, 2, 4)]),
    'region_affinity': (region(region_affinity), [(2, 2, 2, 4), (2, 3, 1, 4)]),
    'variational_information': (variational_information, [SMALL, SMALL, (3,)]),
    'softmax_regression': (partial(softmax_regression, classifier=classifier), [SMALL, (2, 3)]),
    'learner_realism': (learner_realism, [(2, 1, 3, 4)]),
    **{
        f'discriminator_error {kind}': (
            partial(discriminator_error, kind=kind),
            [(2, 1, 3, 4), (2, 1, 3, 4)],
        )
        for kind in ADVERSARIES
    },
    **{
        f'focal_and_dice {focusing} {classes}': (
            partial(focal, focusing=focusing),
            [(2, classes, 2, 2)],
        )
        for focusing in (0.5, 2.0)
        for classes in (1, 3)
    },
    **{
        f'focal_and_smooth_dice {reference} {focusing} {classes}': (
            partial(
                focal, loss_terms=focal_and_smooth_dice, focusing=focusing, reference=reference
            ),
            [(2, classes, 2, 2)],
        )
        for reference in FOCAL_REFERENCES
        for focusing, classes in ((0, 3), (0.5, 1), (2.0, 3))
    },
}
# These do not compute a loss; their own tests cover their gradients and precision.
NO_LOSSES = {'gradient_penalty', 'linear_cka', 'pooled_to_smaller', 'random_mask', 'unbiased_hsic'}
# As in the references, parts of these are constants in the gradient; SKD's is always float32.
NOT_DIFFERENTIATED = {
    name
    for name in FUNCTIONS
    if name == 'pair_wise_difference skd'
    or (name.startswith('focal_and_smooth_dice emkd') and ' 0 ' not in name)
}


def draw(shapes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes
    ]


def test_table_contains_every_public_function():
    named = {name.split()[0] for name in FUNCTIONS}
    assert named | NO_LOSSES == set(functional.__all__)


@pytest.mark.parametrize('name', sorted(FUNCTIONS.keys() - NOT_DIFFERENTIATED))
def test_gradients_match_finite_differences(name):
    function, shapes = FUNCTIONS[name]
    if name.startswith(('focal', 'discriminator')):
        function = partial(lambda call, *sides: call(*(2 * side for side in sides)), function)
    assert torch.autograd.gradcheck(function, [side.requires_grad_() for side in draw(shapes)])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', FUNCTIONS)
def test_half_precision_is_computed_in_float32_without_changing_inputs(name, dtype):
    function, shapes = FUNCTIONS[name]
    inputs = draw(shapes, dtype)
    before = [side.clone() for side in inputs]
    value = function(*inputs)
    with torch.autocast('cpu', torch.bfloat16):
        under_autocast = function(*inputs) if 'softmax' not in name else value
    exact = function(*(side.float() for side in inputs))
    assert value.dtype == under_autocast.dtype == torch.float32
    assert value.shape == ()
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(under_autocast, exact, rtol=1e-6, atol=1e-7)
    assert all(map(torch.equal, inputs, before))


def one_pixel(shape):
    values = torch.zeros(shape)
    values[..., -1] = 1
    return values


EXTREMES = {
    'zeros': torch.zeros,
    'constant': lambda shape: torch.full(shape, 0.5),
    'one pixel': one_pixel,
    'half empty': lambda shape: draw([shape])[0].float().relu() * (torch.arange(shape[-1]) > 1),
    'tiny': lambda shape: 1e-9 * draw([shape])[0].float(),
    'vanishing': lambda shape: 1e-30 * draw([shape])[0].float(),
    'huge': lambda shape: 1e4 * draw([shape])[0].float(),
    'huge signs': lambda shape: 1e4 * draw([shape])[0].sign().float(),
    'huge constant': lambda shape: torch.full(shape, 1e4),
}


@pytest.mark.parametrize('name', FUNCTIONS)
def test_extreme_inputs_give_finite_values_and_gradients(name):
    function, shapes = FUNCTIONS[name]
    others = draw(shapes, torch.float32)[1:]
    for kind, extreme in EXTREMES.items():
        learner = extreme(shapes[0])
        opposite = [-learner, *others[1:]] if shapes[:1] == shapes[1:2] else others
        for rest in (opposite, [torch.zeros_like(side) for side in others]):
            learner = learner.detach().requires_grad_()
            value = function(learner, *rest)
            value.backward()
            assert value.dtype == torch.float32
            assert value.isfinite(), kind
            # A zero vector that is divided by a tiny length would have a gradient of 1e8.
            limit = math.inf if kind == 'tiny' or 'huge' in kind else 100
            assert learner.grad.isfinite().all(), kind
            assert learner.grad.abs().max() <= limit, kind
