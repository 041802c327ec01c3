"""Divergence of detectors' predictions against closed forms, explicit sums and MMDetection."""

import importlib
import math
from functools import partial

import pytest
import torch
from torch.distributions import Bernoulli, Categorical, kl_divergence

from mmkdml.functional import detection_divergence
from mmkdml.functional.boxes import aligned_giou

CLASSES, BINS = 3, 5


def predictions(seed, classes=CLASSES, bins=0, images=2, priors=7, dtype=torch.float64):
    """Draw class logits, boxes with edges in order, and logits of distances (N, C, P)."""
    rng = torch.Generator().manual_seed(seed)
    draw = partial(torch.rand, generator=rng, dtype=torch.float64)
    logits = 8 * draw(images, classes, priors) - 5
    corner = 4 * draw(images, 2, priors)
    boxes = [corner, corner + 0.5 + 3 * draw(images, 2, priors)]
    distances = 10 * draw(images, 4 * bins, priors)
    return torch.cat([logits, *boxes, distances], dim=1).to(dtype)


def losses_of_mmdet(module):
    pytest.importorskip('mmdet')
    importlib.import_module('mmkdml.compat')  # makes it importable without compiled operators
    return importlib.import_module(f'mmdet.models.losses.{module}')


def confidences(source, classes=CLASSES):
    return source[:, :classes].sigmoid().amax(1)


def corners(tensor, classes=CLASSES):
    return tensor[:, classes : classes + 4].transpose(1, 2)


@pytest.mark.parametrize('classes', [1, 3])
@pytest.mark.parametrize('direction', ['learner||source', 'source||learner'])
@pytest.mark.parametrize(('scale', 'factor'), [('none', 1), ('temperature_squared', 9)])
def test_classes_are_bernoulli_divergences_per_confidence(classes, direction, scale, factor):
    learner, source = predictions(1, classes), predictions(2, classes)
    sides = [Bernoulli(logits=side[:, :classes] / 3) for side in (learner, source)]
    if direction == 'source||learner':
        sides.reverse()
    expected = factor * kl_divergence(*sides).sum() / confidences(source, classes).sum()
    value = detection_divergence(learner, source, classes, 3, direction, scale, box_weight=0)
    torch.testing.assert_close(value, expected, rtol=1e-6, atol=0)  # PyTorch adds an eps


def test_boxes_are_weighted_by_the_confidence_of_the_source():
    learner, source = predictions(1), predictions(2)
    weights = confidences(source)
    giou = aligned_giou(corners(learner), corners(source))
    expected = ((1 - giou) * weights).sum() / weights.sum()
    parts = [detection_divergence(learner, source, CLASSES, box_weight=x) for x in (0, 1, 2.5)]
    torch.testing.assert_close(parts[1] - parts[0], expected)
    torch.testing.assert_close(parts[2] - parts[0], 2.5 * expected)


def test_closed_form_of_one_prior():
    # Confidence 0.8, below the smallest divisor of 1. Boxes of 4 and 8, of which 4 overlap.
    source = torch.tensor([[math.log(4), -math.log(4), 0, 0, 2, 4]]).unsqueeze(2)
    learner = torch.tensor([[0, -math.log(4), 0, 0, 2, 2]]).unsqueeze(2)
    classes = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    value = detection_divergence(learner, source, 2, temperature=1)
    assert value.item() == pytest.approx(classes + 0.8 * 0.5, rel=1e-6)


def test_giou_equals_that_of_mmdetection():
    iou_loss = losses_of_mmdet('iou_loss')
    learner, source = predictions(1), predictions(2)
    weights = confidences(source).flatten()
    expected = iou_loss.GIoULoss()(
        corners(learner).reshape(-1, 4),
        corners(source).reshape(-1, 4),
        weights,
        avg_factor=weights.sum(),
    )
    classes = detection_divergence(learner, source, CLASSES, box_weight=0)
    value = detection_divergence(learner, source, CLASSES) - classes
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)  # they add an eps of 1e-6


@pytest.mark.parametrize('temperature', [1.0, 10.0])
def test_distributions_equal_localization_distillation_of_mmdetection(temperature):
    kd_loss = losses_of_mmdet('kd_loss')
    learner, source = predictions(1, bins=BINS), predictions(2, bins=BINS)
    weights = confidences(source).flatten()
    rows = [
        side[:, CLASSES + 4 :].transpose(1, 2).reshape(-1, BINS)  # as in mmdet's LDHead
        for side in (learner, source)
    ]
    average = kd_loss.KnowledgeDistillationKLDivLoss(T=temperature)(
        *rows, weights[:, None].expand(-1, 4).reshape(-1), avg_factor=4.0
    )
    expected = BINS * average / weights.sum()
    classes = detection_divergence(learner, source, CLASSES, box_weight=0)
    value = detection_divergence(learner, source, CLASSES, box_temperature=temperature) - classes
    torch.testing.assert_close(value, expected, rtol=1e-7, atol=0)
    distributions = [Categorical(logits=side / temperature) for side in rows]
    sums = kl_divergence(distributions[1], distributions[0]).view(-1, 4).mean(1)
    expected = temperature**2 * (sums * weights).sum() / weights.sum()
    torch.testing.assert_close(value, expected)


def test_box_loss_is_chosen_by_the_head():
    learner, source = predictions(1, bins=BINS), predictions(2, bins=BINS)
    plain = [side[:, : CLASSES + 4] for side in (learner, source)]
    values = {
        kind: detection_divergence(learner, source, CLASSES, box_loss=kind)
        for kind in ('auto', 'giou', 'distribution')
    }
    assert values['auto'] == values['distribution'] != values['giou']
    assert values['giou'] == detection_divergence(*plain, CLASSES)
    assert values['giou'] == detection_divergence(*plain, CLASSES, box_loss='giou')


@pytest.mark.parametrize('bins', [0, BINS])
@pytest.mark.parametrize('direction', ['learner||source', 'source||learner'])
def test_equal_sides_give_no_loss_and_no_gradient(bins, direction):
    source = predictions(1, bins=bins)
    source[0, CLASSES + 2 : CLASSES + 4, 0] = source[0, CLASSES : CLASSES + 2, 0]  # no area
    source[0, CLASSES + 2, 1] = source[0, CLASSES, 1] - 3  # edges in the wrong order
    learner = source.clone().requires_grad_()
    value = detection_divergence(learner, source, CLASSES, direction=direction)
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert learner.grad.abs().max() < 1e-12


@pytest.mark.parametrize('bins', [0, BINS])
def test_invariances(bins):
    learner, source = predictions(1, bins=bins), predictions(2, bins=bins)
    value = detection_divergence(learner, source, CLASSES)
    order, images, classes = torch.randperm(7), [1, 0], [2, 0, 1, *range(3, learner.shape[1])]
    for moved in (
        [side[..., order] for side in (learner, source)],
        [side[images] for side in (learner, source)],
        [side[:, classes] for side in (learner, source)],
        [side.repeat(2, 1, 1) for side in (learner, source)],
    ):
        torch.testing.assert_close(detection_divergence(*moved, CLASSES), value)
    # GIoU does not depend on the stride, nor on which corner is first.
    for change in (lambda box: 8 * box, lambda box: box[:, [2, 3, 0, 1]]):
        moved = [side.clone() for side in (learner, source)]
        for side in moved:
            side[:, CLASSES : CLASSES + 4] = change(side[:, CLASSES : CLASSES + 4])
        torch.testing.assert_close(detection_divergence(*moved, CLASSES), value)


def test_background_has_no_influence_on_boxes_but_on_classes():
    learner, source = predictions(1), predictions(2)
    source[0, :CLASSES, 3] = -40
    moved = learner.clone()
    moved[0, CLASSES : CLASSES + 4, 3] += 2
    torch.testing.assert_close(
        detection_divergence(moved, source, CLASSES), detection_divergence(learner, source, CLASSES)
    )
    moved[0, 0, 3] = 5  # a false alarm
    difference = detection_divergence(moved, source, CLASSES) - detection_divergence(
        learner, source, CLASSES
    )
    assert difference > 0.1


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize('bins', [0, BINS])
def test_source_without_any_confidence_and_extreme_logits_stay_finite(bins, dtype):
    learner, source = (predictions(s, bins=bins, dtype=dtype) for s in (1, 2))
    source[:, :CLASSES] = -6e4
    learner[:, :CLASSES] = 6e4
    learner[:, CLASSES + 4 :] *= 6e3
    learner[:, CLASSES + 2, 0] = -6e4  # a very negative width
    learner.requires_grad_()
    for direction in ('learner||source', 'source||learner'):
        value = detection_divergence(learner, source, CLASSES, direction=direction)
        assert value.isfinite()
        (gradient,) = torch.autograd.grad(value, learner)
        assert gradient.isfinite().all()
    # Without confidence the boxes have no influence, and the divisor is 1.
    expected = 3e4 * CLASSES * 7 * 2  # -log(sigmoid(z_source / T)) of each class
    assert detection_divergence(learner, source, CLASSES).item() == pytest.approx(expected, 0.01)


def test_untrained_boxes_with_negative_widths_are_bounded():
    rng = torch.Generator().manual_seed(0)
    learner, source = (torch.randn(2, CLASSES + 4, 500, generator=rng) for _ in range(2))
    classes = detection_divergence(learner, source, CLASSES, box_weight=0)
    boxes = detection_divergence(learner, source, CLASSES) - classes
    assert 0 < boxes <= 2


@pytest.mark.parametrize(
    ('shapes', 'options', 'parts'),
    [
        ([(2, 7, 9), (2, 7, 6)], {}, ['(2, 7, 9)', '(2, 7, 6)', 'share features']),
        ([(2, 7, 9), (2, 27, 9)], {}, ['(2, 7, 9)', '(2, 27, 9)', 'share features']),
        ([(2, 5, 9)] * 2, {}, ['C = 3 class logits', '(2, 5, 9)']),
        ([(2, 10, 9)] * 2, {}, ['C = 3 class logits', '(2, 10, 9)']),
        ([(2, 11, 9)] * 2, {}, ['4 * (reg_max + 1)', '(2, 11, 9)']),
        ([(2, 7)] * 2, {}, ['(N, C, P)', '(2, 7)']),
        ([(2, 7, 3, 3)] * 2, {}, ['(N, C, P)', '(2, 7, 3, 3)']),
        ([(2, 7, 9)] * 2, dict(box_loss='distribution'), ['GFL', '(2, 7, 9)', "'giou'"]),
        ([(2, 7, 9)] * 2, dict(box_loss='iou'), ['box_loss', 'auto, giou, distribution', "'iou'"]),
        ([(2, 7, 9)] * 2, dict(box_weight=-1), ['box_weight', '0', '-1']),
        ([(2, 7, 9)] * 2, dict(box_temperature=0), ['box_temperature', '0']),
        ([(2, 7, 9)] * 2, dict(temperature=0), ['temperature', '0']),
    ],
)
def test_invalid_inputs_raise(shapes, options, parts):
    with pytest.raises(ValueError, match='^Invalid ') as caught:
        detection_divergence(*map(torch.zeros, shapes), CLASSES, **options)
    assert [part for part in parts if part not in str(caught.value)] == []
