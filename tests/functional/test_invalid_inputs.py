"""Invalid inputs and options of every function, with parts of the expected errors."""

import math
from functools import partial

import pytest
import torch

from mmkdml.functional import (
    attention_difference,
    attention_map,
    calibrated_error,
    category_similarity,
    channel_wise_kl,
    decoupled_kl,
    discriminator_error,
    feature_correlation,
    feature_mse,
    focal_and_dice,
    focal_and_smooth_dice,
    gradient_penalty,
    importance_difference,
    intra_class_variation,
    linear_cka,
    masked_generation,
    pair_wise_difference,
    pixel_similarity,
    pixel_wise_divergence,
    pooled_to_smaller,
    prediction_kl,
    random_mask,
    region_affinity,
    relation_difference,
    similarity_difference,
    softmax_regression,
    standardized_logits,
    unbiased_hsic,
    variational_information,
)
from mmkdml.functional.adversarial import ADVERSARIES
from mmkdml.functional.attention import ATTENTION_REFERENCES
from mmkdml.functional.divergence import DIRECTIONS, SCALES
from mmkdml.functional.regions import check_num_classes
from mmkdml.functional.segmentation import FOCAL_REFERENCES
from mmkdml.functional.shapes import pooled_to
from mmkdml.functional.structure import PAIR_WISE_REFERENCES, PIXEL_WISE_REFERENCES

MAP = (2, 3, 4, 6)
WEIGHT = torch.linspace(-1, 1, 12).view(4, 3)


def classifier(features):
    return torch.nn.functional.linear(features, WEIGHT.to(features.dtype))


def layers(a, b, c, d):
    return pixel_similarity([a, b], [c, d])


SIDES = [MAP, MAP]
LABELS = torch.zeros(2, 4, 6, dtype=torch.long)
WRONG = LABELS + 3
# The call, its inputs (zeros of a shape, or a tensor) and parts of the error.
INVALID = [
    (prediction_kl, [(4, 3), (4, 2)], ['KL divergence', '(4, 3)', '(4, 2)']),
    (partial(prediction_kl, temperature=0), SIDES, ['temperature', '0']),
    (partial(prediction_kl, direction='forward'), SIDES, ['direction', *DIRECTIONS, "'forward'"]),
    (partial(prediction_kl, scale=4), SIDES, ['scale', *SCALES, '4']),
    (feature_mse, [MAP, (2, 1, 4, 6)], ['mean squared error', '(2, 3, 4, 6)', '(2, 1, 4, 6)']),
    (attention_map, [(2, 3)], ['attention map', '(N, C, H, W)', '(2, 3)']),
    (partial(attention_map, exponent=0.5), [MAP], ['exponent', '1', '0.5']),
    (attention_difference, [MAP, (1, 3, 4, 6)], ['(2, 3, 4, 6)', '(1, 3, 4, 6)']),
    (partial(attention_difference, reference='code'), SIDES, [*ATTENTION_REFERENCES, "'code'"]),
    (importance_difference, [MAP, (1, 3, 4, 6)], ['(2, 3, 4, 6)', '(1, 3, 4, 6)']),
    (importance_difference, [MAP, (2, 3)], ['(2, 3, 4, 6)', '(2, 3)']),
    (partial(importance_difference, exponent=0.5), SIDES, ['exponent', '0.5']),
    (layers, [MAP, MAP, MAP, (1, 3, 4, 6)], ['same N', '(2, 3, 4, 6)', '(1, 3, 4, 6)']),
    (layers, [MAP, (2, 3), MAP, MAP], ['(N, C, H, W)', '(2, 3)']),
    *(
        (
            lambda a, number=number: pixel_similarity([a] * number[0], [a] * number[1]),
            [MAP],
            ['two or more maps', f'got {number[0]} and {number[1]}'],
        )
        for number in ((0, 0), (1, 1), (2, 3), (3, 2))
    ),
    *(
        (call, inputs, parts)
        for function in (channel_wise_kl, category_similarity, pixel_wise_divergence)
        for call, inputs, parts in (
            (function, [MAP, (2, 1, 4, 6)], ['(2, 3, 4, 6)', '(2, 1, 4, 6)']),
            (function, [(4, 2), (4, 2)], ['(N, C, H, W)', '(4, 2)', 'PredictionKLLoss']),
        )
    ),
    (partial(channel_wise_kl, temperature=math.nan), SIDES, ['temperature', 'nan']),
    (partial(channel_wise_kl, divisor=0), SIDES, ['divisor', '1', '0']),
    (partial(category_similarity, temperature=math.inf), SIDES, ['temperature', 'inf']),
    (
        partial(pixel_wise_divergence, reference='paper'),
        SIDES,
        ['reference', *PIXEL_WISE_REFERENCES, "'paper'"],
    ),
    (
        partial(pair_wise_difference, reference='ifvd'),
        SIDES,
        ['reference', *PAIR_WISE_REFERENCES, "'ifvd'"],
    ),
    (pair_wise_difference, [MAP, (2, 3, 4, 5)], ['N, H and W', '(2, 3, 4, 6)', '(2, 3, 4, 5)']),
    *(
        (partial(pair_wise_difference, reference='skd', scale=scale), SIDES, ['scale', str(scale)])
        for scale in (0, -0.5, 1.1, math.nan)
    ),
    (decoupled_kl, [(4, 3), (4, 2), (4,)], ['DKD', '(4, 3)', '(4, 2)']),
    (decoupled_kl, [(4, 3), (4, 3), (5,)], ['DKD', '(N,)', '(4, 3)', '(5,)']),
    (decoupled_kl, [(4, 3, 2), (4, 3, 2), (4,)], ['(N, K, H, W)', '(4, 3, 2)', '(4,)']),
    (decoupled_kl, [MAP, MAP, (2,)], ['(2, 3, 4, 6)', '(2,)']),
    (decoupled_kl, [MAP, MAP, WRONG], ['labels', '[0, 3)', '255', '[3]']),
    (decoupled_kl, [(2, 1), (2, 1), torch.tensor([0, 2])], ['labels', '[0, 2)', '[0, 2]']),
    *(
        (partial(decoupled_kl, **{name: value}), [*SIDES, LABELS], [name, str(value)])
        for name, value in (('alpha', -1), ('beta', math.nan), ('temperature', 0))
    ),
    *(
        (standardized_logits, [shape], ['K >= 3', str(shape), 'without standardization'])
        for shape in ((4, 2), (4, 1), (2, 2, 4, 6), (2, 1, 4, 6), (4,))
    ),
    (relation_difference, [(4, 3), (4, 2)], ['DIST', '(4, 3)', '(4, 2)']),
    *(
        (partial(relation_difference, **{name: value}), SIDES, [name, str(value)])
        for name, value in (('beta', -1), ('gamma', math.nan), ('temperature', math.inf))
    ),
    (feature_correlation, [(2, 3), (2, 3)], ['(N, C, H, W)', '(2, 3)']),
    (feature_correlation, [MAP, (1, 3, 4, 6)], ['(2, 3, 4, 6)', '(1, 3, 4, 6)']),
    (feature_correlation, [MAP, (2, 5, 4, 6)], ['PKD', '3 of', '5 of', 'ConvProjector']),
    (partial(random_mask, ratio=1), [MAP], ['ratio', '[0, 1)', '1']),
    (partial(random_mask, ratio=math.nan), [MAP], ['ratio', 'nan']),
    (partial(random_mask, ratio=0.5, masked='rows'), [MAP], ['pixels, channels', "'rows'"]),
    (partial(masked_generation, generate=abs), [MAP, (2, 3, 4, 5), (1,)], ['N, H and W']),
    (partial(masked_generation, generate=abs), [MAP, (2, 5, 4, 6), (1,)], ['MGD', '(2, 5, 4, 6)']),
    (linear_cka, [(5, 2), (4, 2)], ['CKA', '5 and 4']),
    (unbiased_hsic, [(1, 3, 3), (1, 3, 3)], ['HSIC', '4', '3 and 3', 'batch size']),
    (unbiased_hsic, [(1, 5, 5), (1, 6, 6)], ['HSIC', '5 and 6']),
    *(
        (
            similarity_difference,
            [(own, 3), (other, 3)],
            [f'got {own} and {other}', 'drop_last=True'],
        )
        for own, other in ((1, 1), (3, 2), (1, 2))
    ),
    *(
        (calibrated_error, shapes, ['(N, S, D)', *map(str, shapes)])
        for shapes in (
            [(4, 2, 6), (4, 3, 5), (4, 2, 3)],
            [(4, 2, 5), (3, 3, 5), (4, 2, 3)],
            [(4, 2, 5), (4, 3, 5), (4, 3, 2)],
            [(4, 2, 5), (4, 3, 5), (4, 2, 1)],
        )
    ),
    (partial(calibrated_error, softness=0), [(4, 2, 5), (4, 3, 5), (4, 2, 3)], ['softness', '0']),
    *(
        (call, inputs, parts)
        for function in (intra_class_variation, region_affinity)
        for call, inputs, parts in (
            (function, [*SIDES, (2, 1, 4, 6)], ['(2, 3, 4, 6)', '(2, 1, 4, 6)']),
            (function, [*SIDES, (1, 4, 6)], ['(2, 3, 4, 6)', '(1, 4, 6)']),
            (function, [*SIDES, (2,)], ['(2, 3, 4, 6)', '(2,)']),
            (function, [*SIDES, WRONG], ['labels', '[0, 2)', '[3]', 'num_classes']),
            (partial(function, num_classes=1), [*SIDES, LABELS], ['num_classes', '2', '1']),
        )
    ),
    (intra_class_variation, [MAP, (2, 3, 4, 5), LABELS], ['N, H and W', '(2, 3, 4, 5)']),
    (lambda: check_num_classes(0), [], ['num_classes', '2', '0']),
    (variational_information, [MAP, (2, 1, 4, 6), (3,)], ['(2, 3, 4, 6)', '(2, 1, 4, 6)']),
    (variational_information, [MAP, MAP, (4,)], ['log_scale', '(2, 3, 4, 6)', '(4,)']),
    (partial(variational_information, eps=0), [MAP, MAP, (3,)], ['eps', '0']),
    (
        partial(softmax_regression, classifier=classifier),
        [MAP, (2, 5)],
        ['softmax regression', '(2, 3)', '(2, 5)'],
    ),
    *(
        (
            partial(softmax_regression, classifier=classifier, weight=weight),
            SIDES,
            ['weight', str(weight)],
        )
        for weight in (-1, math.nan)
    ),
    (partial(discriminator_error, kind='gan'), [(2,), (2,)], ['kind', *ADVERSARIES, "'gan'"]),
    (discriminator_error, [(2,), (3,)], ['(2,)', '(3,)']),
    (partial(gradient_penalty, torch.sum), [MAP, (1, 3, 4, 6), (2, 1, 1, 1)], ['(1, 3, 4, 6)']),
    (pooled_to_smaller, [MAP, (2, 3)], ['(2, 3, 4, 6)', '(2, 3)']),
    (lambda features: pooled_to(features, (1, 1)), [(2, 3)], ['(N, C, H, W)', '(2, 3)']),
    *(
        (call, inputs, parts)
        for function in (focal_and_dice, focal_and_smooth_dice)
        for call, inputs, parts in (
            (function, [MAP, (2, 1, 4, 6)], ['(2, 3, 4, 6)', '(2, 1, 4, 6)']),
            (function, [MAP, (2, 4, 5)], ['(2, 3, 4, 6)', '(2, 4, 5)']),
            (function, [MAP, (1, 4, 6)], ['(2, 3, 4, 6)', '(1, 4, 6)']),
            (function, [(2, 1, 4), (2, 4)], ['(2, 1, 4)', '(2, 4)']),
            (function, [MAP, WRONG], ['labels', '[0, 3)', '[3]']),
            (function, [(2, 1, 4, 6), LABELS + 2], ['labels', '[0, 2)', '[2]']),
            (partial(function, focusing=-0.1), [MAP, LABELS], ['focusing', '0', '-0.1']),
            (partial(function, focusing=math.nan), [MAP, LABELS], ['focusing', '0', 'nan']),
            *(
                (
                    partial(function, pixel_weights=torch.ones(shape)),
                    [MAP, LABELS],
                    ['pixel_weights', '(2, 4, 6)', str(shape)],
                )
                for shape in ((2, 1, 4, 6), (4, 6), (2, 4, 1))
            ),
        )
    ),
    (
        partial(focal_and_smooth_dice, reference='paper'),
        [MAP, LABELS],
        ['reference', *FOCAL_REFERENCES, "'paper'"],
    ),
]


@pytest.mark.parametrize(('function', 'inputs', 'parts'), INVALID)
def test_invalid_inputs_raise(function, inputs, parts):
    tensors = [torch.zeros(one) if isinstance(one, tuple) else one for one in inputs]
    with pytest.raises(ValueError, match='^Invalid ') as caught:
        function(*tensors)
    assert [part for part in parts if part not in str(caught.value)] == []
