import contextlib
import io

import numpy as np
import pytest

from mmkdml.evaluation.boxes.matching import (
    MatchedBoxes,
    average_precision,
    box_overlaps,
    match_boxes,
)
from mmkdml.evaluation.boxes.samples import Boxes, TrueBoxes

IOUS = (0.3, 0.5, 0.75, 1.0)


def random_boxes(rng, number):
    """Return boxes on a coarse grid, such that overlaps, ties and equal boxes are frequent."""
    corner = rng.integers(0, 6, (number, 2))
    return np.hstack([corner, corner + rng.integers(1, 5, (number, 2))]).astype(float)


def random_image(seed):
    rng = np.random.default_rng(seed)
    number, true_number = rng.integers(0, 9, 2)
    return dict(
        boxes=random_boxes(rng, number),
        scores=rng.integers(1, 6, number) / 5,  # with ties
        labels=rng.integers(0, 2, number),
        true_boxes=random_boxes(rng, true_number),
        true_labels=rng.integers(0, 2, true_number),
        ignored=rng.random(true_number) < 0.3,
    )


def as_coco(boxes, labels, first_id=1, image_id=1, **columns):
    names = list(columns)
    return [
        dict(
            id=first_id + index,
            image_id=image_id,
            category_id=int(label),
            bbox=[*box[:2], *(box[2:] - box[:2])],
            area=(box[2:] - box[:2]).prod(),
            **dict(zip(names, values, strict=True)),
        )
        for index, (box, label, *values) in enumerate(
            zip(boxes, labels, *columns.values(), strict=True)
        )
    ]


def evaluate_by_pycocotools(images):
    pytest.importorskip('pycocotools')
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    true, found = [], []
    for place, image in enumerate(images):
        crowd = image['ignored'].astype(int).tolist()
        ids = dict(image_id=place)
        true += as_coco(
            image['true_boxes'], image['true_labels'], len(true) + 1, iscrowd=crowd, **ids
        )
        found += as_coco(
            image['boxes'], image['labels'], len(found) + 1, score=image['scores'], **ids
        )
    sides = COCO(), COCO()
    with contextlib.redirect_stdout(io.StringIO()):
        for side, annotations in zip(sides, (true, found), strict=True):
            side.dataset = dict(
                images=[dict(id=place) for place in range(len(images))],
                categories=[dict(id=0), dict(id=1)],
                annotations=annotations,
            )
            side.createIndex()
        evaluation = COCOeval(*sides, 'bbox')
        evaluation.params.iouThrs = np.array(IOUS)
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation


def matches_of_pycocotools(image):
    """Return the matches of COCOeval, (R, M), from its ids, which begin with 1."""
    evaluation = evaluate_by_pycocotools([image])
    matches = np.full((len(IOUS), len(image['boxes'])), -1)
    for one in evaluation.evalImgs:
        if one is not None and one['aRng'] == evaluation.params.areaRng[0]:
            matches[:, np.array(one['dtIds'], int) - 1] = one['dtMatches'].astype(int) - 1
    return matches


def test_equals_pycocotools():
    images = [random_image(seed) for seed in range(150)]
    for image in images:
        np.testing.assert_array_equal(match_boxes(**image, iou=IOUS), matches_of_pycocotools(image))
    matches = np.concatenate([match_boxes(**image) for image in images])
    assert (matches >= 0).sum() > 50
    assert (matches < 0).sum() > 50


def joined(images, iou=0.5):
    return MatchedBoxes.join(
        [
            MatchedBoxes.of_image(
                Boxes(one['boxes'], one['scores'], one['labels']),
                TrueBoxes(one['true_boxes'], one['true_labels'], one['ignored']),
                iou,
            )
            for one in images
        ]
    )


def test_average_precision_equals_pycocotools():
    images = [random_image(seed) for seed in range(200)]
    precision = evaluate_by_pycocotools(images).eval['precision'][:, :, :, 0, -1]
    for place, iou in enumerate(IOUS):
        found = joined(images, iou).average_precision()
        assert found == pytest.approx(precision[place].mean(), abs=1e-12)
        assert found > 0


def test_average_precision_by_hand():
    # Right, wrong, right of four: precision 1 up to recall 0.25 (26 points), 2/3 up to 0.5 (25).
    scores, right = np.array([0.7, 0.9, 0.8]), np.array([True, True, False])
    assert average_precision(scores, right, 4) == pytest.approx((26 + 25 * 2 / 3) / 101)
    assert average_precision(scores[:0], right[:0], 4) == 0
    assert average_precision(scores, right | True, 3) == 1


def test_joined_matches_count_true_boxes_without_ignored_ones():
    images = [random_image(seed) for seed in range(40)]
    together = joined(images)
    matches = [match_boxes(**one) for one in images]
    assert len(together.true_labels) == sum((~one['ignored']).sum() for one in images)
    hits = sum(
        (~one['ignored'][own[own >= 0]]).sum() for one, own in zip(images, matches, strict=True)
    )
    assert together.found.sum() == together.right.sum() == hits > 0
    left_out = sum(
        one['ignored'][own[own >= 0]].sum() for one, own in zip(images, matches, strict=True)
    )
    assert len(together.scores) == sum(map(len, matches)) - left_out
    assert left_out > 0


def test_no_true_boxes_give_nan():
    image = random_image(3)
    image.update(true_boxes=np.zeros((0, 4)), true_labels=np.zeros(0), ignored=np.zeros(0, bool))
    assert np.isnan(joined([image]).average_precision())


def test_several_thresholds_equal_one_at_a_time():
    image = random_image(3)
    together = match_boxes(**image, iou=IOUS)
    for row, iou in zip(together, IOUS, strict=True):
        np.testing.assert_array_equal(row, match_boxes(**image, iou=iou))


def test_by_hand():
    true_boxes, true_labels = [[0, 0, 10, 10], [20, 0, 30, 10]], [0, 1]
    boxes = [[0, 0, 10, 9], [0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 5], [0, 0, 10, 4]]
    # The higher score takes the box, although its IoU is lower; the third has another class.
    found = match_boxes(boxes, [0.9, 0.8, 0.7, 0.6, 0.5], [0, 0, 0, 0, 0], true_boxes, true_labels)
    assert found.tolist() == [0, -1, -1, -1, -1]
    # IoU 0.5 suffices, 0.4 does not.
    assert match_boxes(boxes[3:], [1, 1], [0, 0], true_boxes, true_labels).tolist() == [0, -1]


def test_ignored_boxes_are_second_choice_and_match_often():
    true_boxes = [[0, 0, 100, 100], [0, 0, 10, 10]]
    boxes = [[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60]]
    found = match_boxes(
        boxes, [0.9, 0.8, 0.7], [0, 0, 0], true_boxes, [0, 0], ignored=[True, False]
    )
    assert found.tolist() == [1, 0, 0]


def test_images_without_boxes():
    none, box = np.zeros((0, 4)), [[0, 0, 1, 1]]
    assert match_boxes(none, [], [], box, [0]).shape == (0,)
    assert match_boxes(none, [], [], none, [], iou=[0.5, 0.6]).shape == (2, 0)
    assert match_boxes(box, [1], [0], none, []).tolist() == [-1]


def test_boxes_without_area_match_nothing():
    point = [[5, 5, 5, 5]]
    assert match_boxes(point, [1], [0], point, [0]).tolist() == [-1]
    assert box_overlaps(np.array(point), np.array(point), np.array([True])).tolist() == [[0]]


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(boxes=[[0, 0, 1]]), r'boxes: expected shape \(M, 4\), got \(1, 3\)'),
        (dict(scores=[1, 2]), r'scores: .*\(1,\), got \(2,\)'),
        (dict(true_labels=[]), r'true_labels: .*\(1,\), got \(0,\)'),
        (dict(ignored=[True, False]), r'ignored: .*\(1,\), got \(2,\)'),
        (dict(iou=0), r'iou: expected values in \(0, 1\], got 0'),
        (dict(iou=[0.5, 50]), r'iou: expected .* got \[0.5, 50\]'),
    ],
)
def test_invalid_input_raises(changes, message):
    box = [[0, 0, 1, 1]]
    arguments = dict(boxes=box, scores=[1], labels=[0], true_boxes=box, true_labels=[0])
    with pytest.raises(ValueError, match=message):
        match_boxes(**{**arguments, **changes})
