"""FGD's focal difference against explicit loops and values of its reference code."""

import math

import pytest
import torch

from mmkdml.functional import focal_difference
from mmkdml.functional.focal import scale_masks

WEIGHTS = ('alpha', 'beta', 'gamma')
HEIGHT, WIDTH = 6, 8
BOXES = [
    torch.tensor([[0.05, 0.1, 0.45, 0.6], [0.2, 0.3, 0.9, 0.95], [0.3, 0.4, 0.35, 0.45]]),
    torch.zeros(0, 4),
    torch.tensor([[0.0, 0.0, 1.0, 1.0]]),
]


def gen(shape, a, b, scale=1.0, shift=0.0):
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    return ((a * index + b).sin() * scale + shift).view(shape)


def maps(channels=6):
    shape = (3, channels, HEIGHT, WIDTH)
    return gen(shape, 0.011, 0.2, 1, 0.3), gen(shape, 0.023, 0.5, 1.5, 0.3)


def only(name):
    return {weight: float(weight == name) for weight in WEIGHTS}


# Values of yzd-v/FGD:mmdet/distillation/losses/fgd.py and their gradient's norms for `maps`.
@pytest.mark.parametrize(
    ('boxes', 'temperature', 'name', 'expected', 'norm'),
    [
        (BOXES, 0.5, 'alpha', 8.239791172991394, 1.0418338309255077),
        (BOXES, 0.5, 'beta', 7.008533715106353, 1.0418450325661421),
        (BOXES, 0.5, 'gamma', 7.953527287859142, 3.2159026753382918),
        (BOXES, 0.8, 'alpha', 9.475795762756063, 1.0839879723610495),
        (BOXES, 0.8, 'beta', 6.744752630808219, 1.0360392482571452),
        (BOXES, 0.8, 'gamma', 5.150797392348219, 2.0183401140657926),
        ([torch.zeros(0, 4)] * 3, 0.5, 'alpha', 0.0, 0.0),
        ([torch.zeros(0, 4)] * 3, 0.5, 'beta', 10.569811792012253, 0.7013173935806529),
    ],
)
def test_parts_equal_those_of_the_reference(boxes, temperature, name, expected, norm):
    learner, source = maps()
    learner.requires_grad_()
    value = focal_difference(learner, source, boxes, temperature, **only(name))
    value.backward()
    assert value.item() == pytest.approx(expected, rel=1e-9)
    assert learner.grad.norm().item() == pytest.approx(norm, rel=1e-9)


def slow_masks(boxes):
    objects = torch.zeros(HEIGHT, WIDTH, dtype=torch.float64)
    for x1, y1, x2, y2 in boxes.tolist():
        left, right = math.floor(x1 * WIDTH), math.ceil(x2 * WIDTH)
        top, bottom = math.floor(y1 * HEIGHT), math.ceil(y2 * HEIGHT)
        for y in range(top, min(bottom, HEIGHT - 1) + 1):
            for x in range(left, min(right, WIDTH - 1) + 1):
                weight = 1 / ((right - left + 1) * (bottom - top + 1))
                objects[y, x] = max(objects[y, x].item(), weight)
    number = (objects == 0).sum().item()
    return objects, (objects == 0).double() / max(number, 1)


def shares(values, temperature):
    powers = [math.exp(value / temperature) for value in values]
    return [len(values) * power / sum(powers) for power in powers]


def slow_attentions(image, temperature):
    rows = image.abs().flatten(1).tolist()
    positions = shares(
        [sum(column) / len(column) for column in zip(*rows, strict=True)], temperature
    )
    return positions, shares([sum(row) / len(row) for row in rows], temperature)


def test_matches_explicit_loops():
    learner, source = maps(4)
    total = 0.0
    for a, b, boxes in zip(learner, source, BOXES, strict=True):
        objects, background = (mask.flatten().tolist() for mask in slow_masks(boxes))
        attentions, source_attentions = slow_attentions(a, 0.5), slow_attentions(b, 0.5)
        for one, other in zip(attentions, source_attentions, strict=True):
            total += 5e-4 * sum(abs(x - y) for x, y in zip(one, other, strict=True))
        positions, channels = source_attentions
        for c, (row, source_row) in enumerate(zip(a.flatten(1), b.flatten(1), strict=True)):
            for i, (x, y) in enumerate(zip(row.tolist(), source_row.tolist(), strict=True)):
                weight = 1e-3 * objects[i] + 5e-4 * background[i]
                total += weight * positions[i] * channels[c] * (x - y) ** 2
    assert focal_difference(learner, source, BOXES).item() == pytest.approx(total / 3, rel=1e-9)


def test_masks():
    objects, background = scale_masks(BOXES, maps()[0])
    assert objects.shape == background.shape == (3, 1, HEIGHT, WIDTH)
    for index, boxes in enumerate(BOXES):
        expected = slow_masks(boxes)
        torch.testing.assert_close(objects[index, 0], expected[0])
        torch.testing.assert_close(background[index, 0], expected[1])
    assert (objects[1] == 0).all()
    assert (background[1] == 1 / 48).all()
    assert (background[2] == 0).all()  # a box of the whole image leaves no background
    # The smallest of three boxes counts: 2 x 2 pixels.
    assert objects[0, 0, 2:4, 2:4].eq(1 / 4).all()


def test_equal_maps_give_zero_and_order_has_no_influence():
    learner, source = maps()
    assert focal_difference(learner, learner.clone(), BOXES) == 0
    value = focal_difference(learner, source, BOXES)
    flipped = [boxes.flip(0) for boxes in BOXES[::-1]]
    moved = [side.flip(0, 1) for side in (learner, source)]
    torch.testing.assert_close(focal_difference(*moved, flipped), value)


@pytest.mark.parametrize('boxes', [[], BOXES[:2], [torch.zeros(4)] * 3, [torch.zeros(2, 5)] * 3])
def test_wrong_boxes_raise(boxes):
    with pytest.raises(ValueError, match=r'Invalid boxes of FGD: expected 3 tensors \(M, 4\).*got'):
        focal_difference(*maps(), boxes)


@pytest.mark.parametrize(
    ('shape', 'options', 'parts'),
    [
        ((3, 6, 3, 8), {}, ['N, H and W', '(3, 6, 3, 8)']),
        ((3, 5, 6, 8), {}, ['FGD', '(3, 5, 6, 8)']),
        ((3, 6, 6, 8), dict(temperature=0), ['temperature', '0']),
        *(((3, 6, 6, 8), {name: -1}, [name, '-1']) for name in WEIGHTS),
    ],
)
def test_invalid_inputs_raise(shape, options, parts):
    with pytest.raises(ValueError, match='^Invalid ') as caught:
        focal_difference(maps()[0], torch.zeros(shape), BOXES, **options)
    assert [part for part in parts if part not in str(caught.value)] == []
