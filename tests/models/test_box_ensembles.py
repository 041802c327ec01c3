from functools import partial

import pytest
import torch

from mmkdml.functional.boxes import soft_nms, weighted_boxes_fusion
from mmkdml.models.box_ensembles import BOX_ENSEMBLES, nms_ensemble, soft_nms_ensemble, wbf_ensemble

NAMES = ('wbf', 'nms', 'soft_nms')


def students(number=3, count=40, num_classes=2, seed=0, dtype=torch.float32):
    """Boxes around four centers, scores and labels of each student."""
    rng = torch.Generator().manual_seed(seed)
    centers = torch.tensor([[30.0, 30], [50, 40], [80, 30], [40, 90]])
    boxes, scores, labels = [], [], []
    for _ in range(number):
        low, high = 15 + 15 * torch.rand(2, count, 2, generator=rng)
        middle = centers[torch.randint(4, (count,), generator=rng)]
        boxes.append(torch.cat([middle - low, middle + high], 1).to(dtype))
        scores.append((0.05 + 0.9 * torch.rand(count, generator=rng)).to(dtype))
        labels.append(torch.randint(num_classes, (count,), generator=rng))
    return boxes, scores, labels


def of_class(found, label):
    boxes, scores, labels = found
    return boxes[labels == label], scores[labels == label]


def test_names_of_ensembles():
    assert tuple(BOX_ENSEMBLES) == NAMES


def test_nms_equals_that_of_torchvision():
    parts = students(num_classes=3)
    boxes, scores, labels = map(torch.cat, parts)
    try:
        from torchvision.ops import batched_nms

        kept = batched_nms(boxes.double(), scores.double(), labels, 0.5)
    except (RuntimeError, NotImplementedError):
        pytest.skip('torchvision has no compiled operators for this torch')
    expected = boxes[kept], scores[kept], labels[kept]
    assert 10 < len(kept) < len(boxes)
    for own, other in zip(nms_ensemble(*parts), expected, strict=True):
        assert torch.equal(own, other)


def test_nms_keeps_boxes_without_a_better_one_of_their_class():
    parts = students(num_classes=3)
    boxes, scores, labels = nms_ensemble(*parts, iou_threshold=0.4)
    everything = list(zip(*(torch.cat(part).tolist() for part in parts), strict=True))
    kept = []
    for box, score, label in sorted(everything, key=lambda one: -one[1]):
        if all(label != other or iou(box, known) <= 0.4 for known, _, other in kept):
            kept.append((box, score, label))
    assert 5 < len(kept) < len(everything)
    assert list(zip(boxes.tolist(), scores.tolist(), labels.tolist(), strict=True)) == kept


def iou(a, b):
    width, height = (max(min(a[i + 2], b[i + 2]) - max(a[i], b[i]), 0) for i in (0, 1))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return width * height / (sum(areas) - width * height)


def test_soft_nms_is_that_of_each_class():
    parts = students(num_classes=3)
    found = soft_nms_ensemble(*parts)
    together = tuple(map(torch.cat, parts))
    for label in range(3):
        boxes, scores = of_class(together, label)
        kept, lowered = soft_nms(boxes, scores)
        assert torch.equal(of_class(found, label)[0], boxes[kept])
        assert torch.equal(of_class(found, label)[1], lowered)


def test_wbf_is_weighted_boxes_fusion():
    parts = students()
    for threshold in (0.55, 0.7):
        expected = weighted_boxes_fusion(*parts, threshold)
        found = wbf_ensemble(*parts, iou_threshold=threshold)
        assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('number', [1, 3])
@pytest.mark.parametrize('name', NAMES)
def test_shapes_types_and_order(name, number, dtype):
    parts = students(number, dtype=dtype)
    before = [one.clone() for part in parts for one in part]
    boxes, scores, labels = BOX_ENSEMBLES[name](*parts)
    assert boxes.shape == (len(scores), 4)
    assert labels.shape == scores.shape
    assert (boxes.dtype, scores.dtype, labels.dtype) == (dtype, dtype, torch.int64)
    assert set(labels.tolist()) == {0, 1}
    assert torch.equal(scores, scores.sort(descending=True)[0])
    assert 0 <= scores.min() <= scores.max() <= torch.cat(parts[1]).max()
    after = [one for part in parts for one in part]
    assert all(torch.equal(own, other) for own, other in zip(before, after, strict=True))


@pytest.mark.parametrize('name', NAMES)
def test_best_boxes_are_kept(name):
    everything = BOX_ENSEMBLES[name](*students(), max_per_img=1000)
    best = BOX_ENSEMBLES[name](*students(), max_per_img=5)
    assert len(best[0]) == 5
    assert all(torch.equal(one[:5], own) for one, own in zip(everything, best, strict=True))
    apart = [torch.arange(150.0)[:, None] * 9 + torch.tensor([0.0, 0, 5, 5])]
    ones = torch.ones(150)
    assert len(BOX_ENSEMBLES[name](apart, [ones], [ones.long()])[0]) == 100
    for number in (0, -1):
        with pytest.raises(ValueError, match=f'max_per_img: expected at least 1, got {number}'):
            BOX_ENSEMBLES[name](*students(), max_per_img=number)


@pytest.mark.parametrize('name', NAMES)
def test_no_boxes(name):
    none = students(2, count=0)
    boxes, scores, labels = BOX_ENSEMBLES[name](*none)
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert labels.dtype == torch.int64


@pytest.mark.parametrize('name', NAMES)
def test_boxes_of_one_student_without_overlaps(name):
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [20, 0, 30, 7]])
    scores, labels = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([3, 0, 3])
    none = students(1, count=0)
    found = BOX_ENSEMBLES[name]([none[0][0], boxes], [none[1][0], scores], [none[2][0], labels])
    assert torch.equal(found[0], boxes)
    torch.testing.assert_close(found[1], scores / 2 if name == 'wbf' else scores)
    assert torch.equal(found[2], labels)


@pytest.mark.parametrize('name', NAMES)
def test_order_of_students_does_not_matter(name):
    parts = students()
    expected = BOX_ENSEMBLES[name](*parts)
    found = BOX_ENSEMBLES[name](*(part[::-1] for part in parts))
    assert all(torch.equal(own, other) for own, other in zip(found, expected, strict=True))


@pytest.mark.parametrize('name', NAMES)
def test_equal_students_agree(name):
    one = students(1, count=20)
    alone = nms_ensemble(*one)  # no more overlaps above the threshold
    twice = BOX_ENSEMBLES[name](*([part, part] for part in alone))
    if name == 'soft_nms':  # lowers the scores of the copies, but drops none of them
        assert len(twice[0]) == 2 * len(alone[0])
        assert torch.equal(twice[1][0], alone[1][0])
    else:
        assert all(torch.equal(own, other) for own, other in zip(twice, alone, strict=True))


def test_invalid_threshold_raises():
    for ensemble in (nms_ensemble, wbf_ensemble):
        with pytest.raises(ValueError, match=r'iou_threshold: expected .* \[0, 1\], got 5'):
            partial(ensemble, iou_threshold=5)(*students())


@pytest.mark.parametrize('name', NAMES)
def test_parts_of_different_length_raise(name):
    boxes, scores, labels = students()
    with pytest.raises(ValueError, match=r'got \[\(40, 4\), .*\[\(3,\), \(40,\), \(40,\)\]'):
        BOX_ENSEMBLES[name](boxes, [scores[0][:3], *scores[1:]], labels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
@pytest.mark.parametrize('name', NAMES)
def test_results_are_the_same_on_a_gpu(name):
    parts = students()
    moved = BOX_ENSEMBLES[name](*([one.cuda() for one in part] for part in parts))
    for own, other in zip(moved, BOX_ENSEMBLES[name](*parts), strict=True):
        assert own.is_cuda
        assert torch.equal(own.cpu(), other)
