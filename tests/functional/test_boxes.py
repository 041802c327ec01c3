"""Oracles: mmdet, ensemble-boxes 1.0.9, literal restatements of the papers, and invariances."""

import itertools
import math

import numpy as np
import pytest
import torch

from mmkdml.functional.boxes import aligned_giou, joined, soft_nms, weighted_boxes_fusion

DOUBLE = torch.float64


def random_boxes(count, seed=0, dtype=DOUBLE):
    """Boxes around four centers, so that many overlap."""
    rng = torch.Generator().manual_seed(seed)
    centers = torch.tensor([[30, 30], [50, 40], [80, 30], [40, 90]], dtype=DOUBLE)
    centers = centers[torch.randint(4, (count,), generator=rng)]
    low, high = 15 + 15 * torch.rand(2, count, 2, generator=rng, dtype=DOUBLE)
    return torch.cat([centers - low, centers + high], 1).to(dtype)


def random_scores(count, seed=0):
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def slow_iou(a, b):
    width = max(min(a[2], b[2]) - max(a[0], b[0]), 0)
    height = max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
    return width * height / union


def slow_giou(a, b):
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    iou = slow_iou(a, b)
    union = sum(areas) / (1 + iou)
    return iou - (hull - union) / hull


def test_giou_equals_the_definition():
    a, b = random_boxes(50), random_boxes(50, seed=1)
    expected = [slow_giou(*pair) for pair in zip(a.tolist(), b.tolist(), strict=True)]
    assert min(expected) < -0.1 < 0.6 < max(expected)
    assert aligned_giou(a, b).tolist() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(aligned_giou(b, a), aligned_giou(a, b))
    maps = aligned_giou(a.view(5, 10, 4), b.view(5, 10, 4))
    assert torch.equal(maps, aligned_giou(a, b).view(5, 10))


def test_giou_and_its_gradient_equal_those_of_mmdet():
    pytest.importorskip('mmdet')
    from mmdet.structures.bbox import bbox_overlaps

    results = []
    for giou in (aligned_giou, lambda a, b: bbox_overlaps(a, b, mode='giou', is_aligned=True)):
        a, b = random_boxes(50).requires_grad_(), random_boxes(50, seed=1).requires_grad_()
        value = giou(a, b)
        results.append((value.detach(), *torch.autograd.grad(value.sum(), (a, b))))
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other)


def test_giou_gradient():
    a, b = random_boxes(20).requires_grad_(), random_boxes(20, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(aligned_giou, (a, b))
    assert torch.autograd.gradcheck(aligned_giou, (a[:, [2, 1, 0, 3]].detach().requires_grad_(), b))


def test_giou_in_closed_form():
    unit = torch.tensor([0.0, 0, 1, 1])
    shifts = torch.tensor([0.0, 0.5, 1, 3])
    boxes = unit + shifts[:, None] * torch.tensor([1.0, 0, 1, 0])
    expected = torch.tensor([1, 1 / 3, 0, -1 / 2])  # hull of length 4, half of it in no box
    torch.testing.assert_close(aligned_giou(unit.expand(4, 4), boxes), expected)


def test_giou_does_not_depend_on_order_of_corners_shift_and_scale():
    a, b = random_boxes(20), random_boxes(20, seed=1)
    expected = aligned_giou(a, b)
    for order in ([2, 1, 0, 3], [0, 3, 2, 1], [2, 3, 0, 1]):
        assert torch.equal(aligned_giou(a[:, order], b), expected)
        assert torch.equal(aligned_giou(a, b[:, order]), expected)
    torch.testing.assert_close(aligned_giou(3 * a - 7, 3 * b - 7), expected)


def test_giou_of_boxes_without_area_is_finite():
    point, line, thin = [2.0, 2, 2, 2], [0.0, 0, 0, 5], [0.0, 0, 1e-8, 5]
    a = torch.tensor([point, point, line, line, point, line, thin]).requires_grad_()
    b = torch.tensor([point, [3.0, 3, 3, 3], line, point, [0, 0, 4, 4], [0, 0, 4, 5], thin])
    value = aligned_giou(a, b)
    assert value.tolist() == [0, -1, 0, -1, 0, 0, 0]
    value.sum().backward()
    assert a.grad.isfinite().all()
    assert a.grad.abs().max() < 10


def test_giou_of_half_precision_does_not_overflow():
    a = torch.tensor([[0, 0, 1000, 1000]], dtype=torch.float16)
    value = aligned_giou(a, a / 2)
    assert value.dtype == torch.float32
    assert value.tolist() == [0.25]


@pytest.mark.parametrize(
    ('a', 'b'),
    [(torch.ones(3, 4), torch.ones(2, 4)), (torch.ones(3, 5),) * 2, (torch.ones(3, 4).long(),) * 2],
)
def test_invalid_boxes_of_giou_raise(a, b):
    with pytest.raises(ValueError, match=rf'same shape, got \({len(a)}, .* and \({len(b)}, '):
        aligned_giou(a, b)


def slow_soft_nms(boxes, scores, method, threshold, sigma, min_score):
    """Figure 2 of the paper: move the best box from B to D, and lower the scores of the rest."""
    remaining = dict(enumerate(scores))
    chosen = []
    while remaining:
        best = max(remaining, key=remaining.get)
        chosen.append((best, remaining.pop(best)))
        for index in remaining:
            iou = slow_iou(boxes[best], boxes[index])
            if method == 'gaussian':
                remaining[index] *= math.exp(-(iou**2) / sigma)
            elif iou >= threshold:
                remaining[index] *= 1 - iou
    return [(index, score) for index, score in chosen if score >= min_score]


@pytest.mark.parametrize('min_score', [0.0, 0.001, 0.1])
@pytest.mark.parametrize('method', ['linear', 'gaussian'])
@pytest.mark.parametrize(('threshold', 'sigma'), [(0.3, 0.5), (0.6, 0.1)])
def test_soft_nms_equals_the_paper(method, threshold, sigma, min_score):
    boxes, scores = random_boxes(40), random_scores(40)
    kept, values = soft_nms(boxes, scores, method, threshold, sigma, min_score)
    expected = slow_soft_nms(boxes.tolist(), scores.tolist(), method, threshold, sigma, min_score)
    assert kept.tolist() == [index for index, _ in expected]
    assert values.tolist() == pytest.approx([score for _, score in expected])
    assert (len(kept) < 40) == (min_score > 0)


def test_soft_nms_by_hand():
    boxes = torch.tensor([[0.0, 0, 10, 4], [0, 0, 10, 10], [50, 50, 60, 60], [0, 0, 10, 10]])
    scores = torch.tensor([0.5, 0.8, 0.6, 0.7])
    kept, values = soft_nms(boxes, scores, 'linear')
    assert kept.tolist() == [1, 2, 0]  # the copy of the first box has an IoU of 1
    torch.testing.assert_close(values, torch.tensor([0.8, 0.6, 0.5 * 0.6]))
    kept, values = soft_nms(boxes, scores)
    assert kept.tolist() == [1, 2, 0, 3]
    lowered = math.exp(-2 * 0.4**2)
    expected = torch.tensor([0.8, 0.6, 0.5 * lowered, 0.7 * math.exp(-2) * lowered])
    torch.testing.assert_close(values, expected)
    assert scores.tolist() == pytest.approx([0.5, 0.8, 0.6, 0.7])  # not modified


def test_soft_nms_of_few_boxes():
    kept, values = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert kept.tolist() == values.tolist() == []
    kept, values = soft_nms(torch.zeros(2, 4).half(), torch.tensor([0.5, 0.75]).half())
    assert kept.tolist() == [1, 0]
    assert values.tolist() == [0.75, 0.5]
    assert (kept.dtype, values.dtype) == (torch.int64, torch.float16)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(method='hard'), "method: expected one of linear, gaussian, got 'hard'"),
        (dict(sigma=0), 'sigma: expected a finite number above 0, got 0'),
        (dict(iou_threshold=50), r'iou_threshold: expected a number in \[0, 1\], got 50'),
        (dict(scores=torch.ones(2)), r'scores: expected one score per box, \(3,\), got \(2,\)'),
        (dict(boxes=torch.ones(3, 5)), r'boxes .* got \(3, 5\)'),
    ],
)
def test_invalid_inputs_of_soft_nms_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        soft_nms(**(dict(boxes=torch.ones(3, 4), scores=torch.ones(3)) | settings))


# Rows (x1, y1, x2, y2, 100 * score, label) in percent: those of each detector, and after the arrow
# what weighted_boxes_fusion of ensemble-boxes 1.0.9 returns for them with iou_thr=0.55.
REFERENCE = [
    """
    50 66 84 82 74 1, 10 0 40 41 7 1
    49 67 85 81 71 1, 9 4 38 39 73 0, 51 63 93 81 52 1
    ->
    49.904 65.569 86.736 81.376 65.6667 1,
    9.000 4.000 38.000 39.000 36.5000 0,
    10.000 0.000 40.000 41.000 3.5000 1,
    """,
    """
    35 66 69 89 33 1, 30 71 70 89 76 1, 32 61 68 94 56 1, 17 71 48 86 78 0
    34 62 67 87 37 1, 23 30 55 61 11 0, 21 31 53 63 25 0
    19 30 53 59 88 0, 14 67 44 85 84 1, 26 29 57 60 19 0, 14 67 42 81 68 0
    ->
    33.373 62.603 67.968 90.635 42.0000 1,
    20.587 30.042 53.685 59.986 35.7500 0,
    14.000 67.000 44.000 85.000 28.0000 1,
    17.000 71.000 48.000 86.000 26.0000 0,
    30.000 71.000 70.000 89.000 25.3333 1,
    14.000 67.000 42.000 81.000 22.6667 0,
    """,
    """
    42 55 69 74 45 1, 26 31 46 46 37 0, 24 25 41 44 49 1, 59 11 82 41 69 0
    37 56 73 73 47 1, 58 12 84 38 52 0, 21 30 44 46 70 1
    24 28 46 44 77 1, 27 32 44 46 15 1, 58 14 80 43 63 0, 21 28 45 45 53 1
    ->
    58.375 12.310 81.880 40.837 61.3333 0,
    22.773 28.201 44.227 44.845 52.8000 1,
    39.446 55.511 71.043 73.489 30.6667 1,
    26.000 31.000 46.000 46.000 12.3333 0,
    """,
    """
    11 25 37 46 75 0, 17 33 40 61 5 1, 9 25 40 42 49 0
    13 36 40 56 32 1, 9 33 36 60 91 1, 50 49 86 67 90 0
    13 27 39 44 71 0, 15 26 38 45 63 0, 8 28 35 60 92 1
    46 46 81 62 55 0, 49 44 89 62 11 0, 14 25 43 47 76 0, 47 46 86 61 13 0
    ->
    12.569 25.614 39.419 45.027 66.8000 0,
    8.497 30.486 35.497 60.000 45.7500 1,
    50.000 49.000 86.000 67.000 22.5000 0,
    46.582 45.722 82.937 61.835 19.7500 0,
    13.541 35.595 40.000 56.676 9.2500 1,
    """,
]


def rows_of(text):
    return [[float(number) for number in row.split()] for row in text.split(',') if row.strip()]


def reference(text):
    """Rows of the detectors, and of the fused boxes."""
    inputs, outputs = text.split('->')
    return [rows_of(line) for line in inputs.strip().splitlines()], rows_of(outputs)


def example(detectors, dtype=DOUBLE):
    """Boxes, scores in [0, 1] and labels from rows (x1, y1, x2, y2, 100 * score, label)."""
    rows = [torch.tensor(one, dtype=dtype).view(-1, 6) for one in detectors]
    return (
        [one[:, :4] for one in rows],
        [one[:, 4] / 100 for one in rows],
        [one[:, 5].long() for one in rows],
    )


def random_example(seed, num_detectors=3, count=30):
    boxes = random_boxes(num_detectors * count, seed)
    scores = random_scores(len(boxes), seed)
    labels = torch.randint(2, (len(boxes),), generator=torch.Generator().manual_seed(seed))
    return [part.split(count) for part in (boxes, scores, labels)]


@pytest.mark.parametrize('text', REFERENCE)
def test_fusion_equals_ensemble_boxes(text):
    detectors, expected = reference(text)
    boxes, scores, labels = weighted_boxes_fusion(*example(detectors))
    found = torch.cat([boxes, 100 * scores[:, None], labels[:, None]], 1)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=DOUBLE), atol=1e-3, rtol=0)


def slow_fusion(boxes, scores, labels, threshold):
    """Section 3 of the paper, with lists L (clusters) and F (fused boxes)."""
    everything = [
        (label, score, box)
        for parts in zip(boxes, scores, labels, strict=True)
        for box, score, label in zip(*(part.tolist() for part in parts), strict=True)
    ]
    clusters, fused = [], []
    for label, score, box in sorted(everything, key=lambda one: -one[1]):
        overlaps = [
            slow_iou(box, other) if label == other_label else -1 for other, _, other_label in fused
        ]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best < 0 or overlaps[best] <= threshold:
            best = len(clusters)
            clusters.append([])
            fused.append(None)
        clusters[best].append((score, box))
        weights = np.array([s for s, _ in clusters[best]])
        corners = np.array([b for _, b in clusters[best]])
        fused[best] = (np.average(corners, axis=0, weights=weights), weights.mean(), label)
    number = len(boxes)
    return sorted(
        (
            (-score * min(len(cluster), number) / number, *box, label)
            for cluster, (box, score, label) in zip(clusters, fused, strict=True)
        )
    )


@pytest.mark.parametrize('threshold', [0.3, 0.55, 0.8])
@pytest.mark.parametrize('num_detectors', [1, 2, 4])
def test_fusion_equals_the_paper(num_detectors, threshold):
    for seed in range(4):
        detectors = random_example(seed, num_detectors)
        boxes, scores, labels = weighted_boxes_fusion(*detectors, threshold)
        found = torch.cat([-scores[:, None], boxes, labels[:, None]], 1)
        expected = torch.tensor(slow_fusion(*detectors, threshold), dtype=DOUBLE)
        assert 4 <= len(expected) < 30 * num_detectors
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize('equal_scores', [False, True])
def test_fusion_does_not_depend_on_the_order_of_detectors(equal_scores):
    boxes, scores, labels = random_example(0)
    if equal_scores:
        scores = [torch.full_like(one, 0.5) for one in scores]
    expected = weighted_boxes_fusion(boxes, scores, labels)
    for order in itertools.permutations(range(3)):
        parts = [[part[place] for place in order] for part in (boxes, scores, labels)]
        for own, other in zip(weighted_boxes_fusion(*parts), expected, strict=True):
            assert torch.equal(own, other)


def test_fusion_scales_with_the_boxes_and_keeps_classes_apart():
    boxes, scores, labels = random_example(0)
    expected = weighted_boxes_fusion(boxes, scores, labels)
    scaled = weighted_boxes_fusion([2 * one for one in boxes], scores, labels)
    assert torch.equal(scaled[0], 2 * expected[0])
    assert torch.equal(scaled[1], expected[1])
    for label in (0, 1):
        alone = weighted_boxes_fusion(
            [box[known == label] for box, known in zip(boxes, labels, strict=True)],
            [score[known == label] for score, known in zip(scores, labels, strict=True)],
            [known[known == label] for known in labels],
        )
        assert torch.equal(alone[0], expected[0][expected[2] == label])
        assert torch.equal(alone[1], expected[1][expected[2] == label])


@pytest.mark.parametrize('num_others', [0, 1, 3])
def test_boxes_of_one_detector_without_overlaps_keep_their_place(num_others):
    rows = [[0, 0, 9, 9, 70, 0], [20, 0, 30, 7, 90, 1], [0, 0, 9, 9, 80, 1]]
    found = weighted_boxes_fusion(*example([rows, *[[]] * num_others]))
    boxes, scores, labels = (part[0] for part in example([[rows[1], rows[2], rows[0]]]))
    assert torch.equal(found[0], boxes)
    torch.testing.assert_close(found[1], scores / (1 + num_others))  # the others disagree
    assert torch.equal(found[2], labels)


def test_fusion_of_special_boxes():
    whole, swapped, line = [0, 0, 8, 6], [8, 0, 0, 6], [0, 0, 8, 0]
    detectors = [[[*whole, 50, 0]], [[*swapped, 30, 0], [*line, 90, 0]]]
    for dtype in (torch.float16, torch.float32):
        boxes, scores, labels = weighted_boxes_fusion(*example(detectors, dtype))
        assert (boxes.dtype, scores.dtype, labels.dtype) == (dtype, dtype, torch.int64)
        assert boxes.tolist() == [whole]
        assert scores.tolist() == pytest.approx([0.4], rel=1e-3)
    # Boxes of score 0 do not move the fused box.
    zeros = example([[[*whole, 0, 0], [0, 0, 8, 5, 0, 0]], [[0, 0, 8, 7, 0, 0]]])
    boxes, scores, _ = weighted_boxes_fusion(*zeros)
    assert boxes.isfinite().all()
    assert scores.tolist() == [0]


def test_fusion_without_boxes():
    boxes, scores, labels = weighted_boxes_fusion(*example([[], []], torch.float32))
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert (boxes.dtype, scores.dtype, labels.dtype) == (*[torch.float32] * 2, torch.int64)


@pytest.mark.parametrize(
    ('boxes', 'scores', 'message'),
    [
        ([], [], r'at least one detector, got \[\]'),
        ([torch.ones(2, 4)], [torch.ones(3)], r'got \[\(2, 4\)\], \[\(3,\)\] and \[\(2,\)\]'),
        ([torch.ones(2, 4)], [], r'got \[\(2, 4\)\], \[\] and'),
        ([torch.ones(2, 5)], [torch.ones(2)], r'boxes .* got \(2, 5\)'),
    ],
)
def test_parts_that_do_not_fit_raise(boxes, scores, message):
    with pytest.raises(ValueError, match=message):
        joined(boxes, scores, [torch.ones(len(one)) for one in boxes])


def test_invalid_threshold_of_fusion_raises():
    with pytest.raises(ValueError, match=r'iou_threshold: expected a number in \[0, 1\], got 55'):
        weighted_boxes_fusion(*random_example(0), 55)
