"""Oracles: definitions in plain Python, counts of pixels, and invariances."""

import pytest
import torch

from mmkdml.functional.nms import non_maximum_suppression, pairwise_iou


def random_boxes(count, seed=0, size=20, dtype=torch.float32):
    """Boxes with integer coordinates, so that IoUs are often equal."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.randint(0, size, (count, 2), generator=generator)
    extent = torch.randint(1, size // 2, (count, 2), generator=generator)
    return torch.cat([corners, corners + extent], 1).to(dtype)


def counted_iou(a, b, offset):
    """IoU of boxes with integer coordinates by counting pixels."""
    grid = torch.zeros(2, 64, 64, dtype=torch.bool)
    for layer, (x1, y1, x2, y2) in zip(grid, (a.int().tolist(), b.int().tolist()), strict=True):
        layer[y1 : y2 + offset, x1 : x2 + offset] = True
    return (grid.all(0).sum() / grid.any(0).sum()).item()


@pytest.mark.parametrize('offset', [0, 1])
def test_iou_is_the_share_of_common_pixels(offset):
    a, b = random_boxes(12), random_boxes(9, seed=1)
    expected = torch.tensor([[counted_iou(one, other, offset) for other in b] for one in a])
    torch.testing.assert_close(pairwise_iou(a, b, offset), expected)
    torch.testing.assert_close(pairwise_iou(b, a, offset), expected.T)


def test_iou_is_invariant_to_shift_and_scale():
    a, b = random_boxes(12, dtype=torch.float64), random_boxes(9, seed=1, dtype=torch.float64)
    torch.testing.assert_close(pairwise_iou(3 * a - 7, 3 * b - 7), pairwise_iou(a, b))


def test_iou_of_boxes_without_area_is_0():
    boxes = torch.tensor([[1.0, 1, 1, 5], [2, 2, 2, 2], [0, 0, 9, 9], [5, 5, 1, 1], [5, 5, 1, 9]])
    assert pairwise_iou(boxes[:2], boxes).eq(0).all()
    assert pairwise_iou(boxes, boxes).isfinite().all()
    assert pairwise_iou(boxes[:0], boxes).shape == (0, 5)
    boxes.requires_grad_()
    pairwise_iou(boxes, boxes).sum().backward()
    assert boxes.grad.isfinite().all()


def test_iou_of_half_precision_does_not_overflow():
    boxes = torch.tensor([[0.0, 0, 1000, 1000], [0, 0, 1000, 500]], dtype=torch.float16)
    assert pairwise_iou(boxes, boxes).tolist() == [[1, 0.5], [0.5, 1]]


def greedy(boxes, scores, threshold, offset):
    """The definition, in Python's float64."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])  # stable
    kept = []
    for index in order:
        if all(
            pairwise_iou(boxes[[other]], boxes[[index]], offset).item() <= threshold
            for other in kept
        ):
            kept.append(index)
    return kept


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.25, 0.5, 0.6, 1.0])
def test_suppression_equals_its_definition(threshold, offset):
    for seed in range(4):
        boxes = random_boxes(40, seed)
        scores = torch.randint(10, (40,), generator=torch.Generator().manual_seed(seed)) / 10
        kept = non_maximum_suppression(boxes, scores, threshold, offset)
        assert kept.tolist() == greedy(boxes, scores.tolist(), threshold, offset)


def test_threshold_itself_does_not_suppress():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])  # IoU 1/2
    scores = torch.tensor([0.1, 0.9])
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [1, 0]
    assert non_maximum_suppression(boxes, scores, 0.49).tolist() == [1]
    # torchvision compares float32(0.6) = 0.60000002 with the float64 0.6.
    boxes[1, 3] = 6
    assert non_maximum_suppression(boxes, scores, 0.6).tolist() == [1]


def test_offset_decides_about_single_pixels():
    boxes = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3]])
    scores = torch.tensor([0.9, 0.8])
    assert non_maximum_suppression(boxes, scores, 0.5, offset=1).tolist() == [0]
    assert non_maximum_suppression(boxes, scores, 0.5).tolist() == [0, 1]  # no area


def test_suppression_is_idempotent_and_ignores_the_order_of_inputs():
    boxes = random_boxes(60)
    scores = torch.rand(60, generator=torch.Generator().manual_seed(1))
    kept = non_maximum_suppression(boxes, scores, 0.3)
    again = non_maximum_suppression(boxes[kept], scores[kept], 0.3)
    assert again.tolist() == list(range(len(kept)))
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    other = non_maximum_suppression(boxes[shuffled], scores[shuffled], 0.3)
    assert shuffled[other].tolist() == kept.tolist()


def test_no_boxes():
    kept = non_maximum_suppression(torch.zeros(0, 4), torch.zeros(0), 0.5)
    assert (kept.shape, kept.dtype) == ((0,), torch.int64)


@pytest.mark.parametrize(
    ('boxes', 'scores', 'message'),
    [
        (torch.zeros(4), torch.zeros(1), r'Invalid boxes: expected .*\(N, 4\).*got \(4,\)'),
        (torch.zeros(2, 5), torch.zeros(2), r'Invalid boxes: .*got \(2, 5\)'),
        (torch.zeros(2, 4).int(), torch.zeros(2), 'floating-point boxes.*int32'),
        (torch.zeros(2, 4), torch.zeros(3), r'Invalid scores: .*\(2,\), got \(3,\)'),
    ],
)
def test_wrong_shapes_and_types_raise(boxes, scores, message):
    with pytest.raises(ValueError, match=message):
        non_maximum_suppression(boxes, scores, 0.5)
