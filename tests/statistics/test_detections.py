import contextlib
import io

import numpy as np
import pandas as pd
import pytest
import torch

from mmkdml.evaluation import CaseTable
from mmkdml.statistics import detections
from mmkdml.statistics.bootstrap import Contrast, estimate
from mmkdml.statistics.case_scores import case_scores
from mmkdml.statistics.counts import Counts, count_members
from mmkdml.statistics.measures import class_count, count

GROUPS = ['g0', 'g1', 'g2', 'g3']
CLASSES = ('cell', 'platelet', 'rare')


def random_boxes(rng, number):
    corner = rng.uniform(0, 60, (number, 2))
    return np.hstack([corner, corner + rng.uniform(5, 40, (number, 2))])


def random_image(rng, index, members):
    """An image with shifted, missed and false boxes; some images have no true boxes at all."""
    number = int(rng.integers(1, 8)) if index % 4 else 0
    true, labels = random_boxes(rng, number), rng.integers(0, 2 if index else 3, number)
    crowd = random_boxes(rng, 1)
    found = {}
    for name in members:
        seen = rng.random(number) < 0.8
        shifted = true[seen] + rng.normal(0, 2, (seen.sum(), 4))
        own = np.vstack([shifted, random_boxes(rng, 3), crowd + 1])
        found[name] = own, np.append(labels[seen], rng.integers(0, 3, 4)), rng.random(len(own))
    return dict(
        id=f'i{index}', group=GROUPS[index % 3 if index else 3], true=(true, labels),
        ignored=(crowd, np.zeros(1, int)), found=found,
    )  # fmt: skip


def random_images(number=16, seed=0, members=('model',)):
    rng = np.random.default_rng(seed)
    return [random_image(rng, index, members) for index in range(number)]


def fields(boxes, labels, scores=None):
    made = dict(bboxes=torch.tensor(boxes).float(), labels=torch.tensor(labels).long())
    return made if scores is None else dict(made, scores=torch.tensor(scores).float())


def case_table(images):
    metric = CaseTable()
    metric.dataset_meta = dict(classes=CLASSES)
    for one in images:
        found = {name: dict(pred_instances=fields(*own)) for name, own in one['found'].items()}
        sample = dict(
            img_id=one['id'],
            group=one['group'],
            gt_instances=fields(*one['true']),
            ignored_instances=fields(*one['ignored']),
        )
        sample |= found['model'] if [*found] == ['model'] else dict(
            pred_instances=found.pop('ensemble')['pred_instances'], members=found
        )  # fmt: skip
        metric.process(None, [sample])
    metric.evaluate(len(images))
    return metric.table


def coco(boxes, labels, image, **columns):
    boxes = torch.tensor(boxes).float().double().numpy()  # as in the samples
    return [
        dict(
            image_id=image,
            category_id=int(label),
            bbox=[*box[:2], *(box[2:] - box[:2])],
            area=(box[2:] - box[:2]).prod(),
            **{name: values[index] for name, values in columns.items()},
        )
        for index, (box, label) in enumerate(zip(boxes, labels, strict=True))
    ]


def pycocotools(images, member='model'):
    """AP and AP50 in percent of images, each with a new id."""
    pytest.importorskip('pycocotools')
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    true, found = [], []
    for place, one in enumerate(images):
        true += coco(*one['true'], place, iscrowd=[0] * len(one['true'][0]))
        true += coco(*one['ignored'], place, iscrowd=[1] * len(one['ignored'][0]))
        boxes, labels, scores = one['found'][member]
        found += coco(boxes, labels, place, score=torch.tensor(scores).float().tolist())
    shared = dict(
        images=[dict(id=place) for place in range(len(images))],
        categories=[dict(id=label) for label in range(len(CLASSES))],
    )
    both = [COCO(), COCO()]
    with contextlib.redirect_stdout(io.StringIO()):
        for api, annotations in zip(both, (true, found), strict=True):
            numbered = [dict(one, id=number) for number, one in enumerate(annotations, start=1)]
            api.dataset = dict(shared, annotations=numbered)
            api.createIndex()
        evaluation = COCOeval(*both, 'bbox')
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [100 * value if value >= 0 else np.nan for value in evaluation.stats[:2]]


def of_images(images):
    cases = case_table(images)
    return count(cases, GROUPS, class_count(cases))


@pytest.mark.parametrize('seed', range(4))
def test_equals_pycocotools(seed):
    images = random_images(seed=seed)
    (found,) = of_images(images).summed(np.ones((1, 4)))
    np.testing.assert_allclose(100 * found, pycocotools(images), rtol=0, atol=1e-9)
    assert 5 < 100 * found[0] < 60  # not trivial


def test_resample_equals_pycocotools_on_copied_images():
    images = random_images()
    times = np.random.default_rng(0).multinomial(4, [0.25] * 4, 30)
    times = np.concatenate([times, np.eye(4, dtype=int), [[0] * 4]])
    found = 100 * of_images(images).summed(times)
    expected = [
        pycocotools([one for one in images for _ in range(drawn[GROUPS.index(one['group'])])])
        for drawn in times
    ]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    # The image of the last group has no true boxes, and nothing is tested if no image is drawn.
    assert np.isnan(found).any(1).tolist() == [not drawn[:3].any() for drawn in times]


def test_values_by_group_are_those_of_its_images():
    images = random_images()
    expected = [pycocotools([one for one in images if one['group'] == group]) for group in GROUPS]
    np.testing.assert_allclose(100 * of_images(images).by_group(), expected, rtol=0, atol=1e-9)


def test_closed_form():
    """Two true boxes: found first, false alarm, then the other one at a quarter of its area."""
    rows = [(0, 0.0, 0, 0, 2), (1, 0.9, 1023, 0, 0), (2, 0.8, 0, 0, 0), (3, 0.7, 1, 0, 0)]
    cases = pd.DataFrame(rows, columns=['rank', 'score', 'hits', 'ignored', 'boxes'])
    cases = cases.assign(member='model', id='i', group='g', label=0)
    (found,) = count(cases, ['g'], 1).summed(np.ones((1, 1)))
    half = 51 / 101  # recalls 0 to 0.5
    first = half + 50 / 101 * 2 / 3
    assert found == pytest.approx([(first + 9 * half) / 10, first])
    # An ignored box is no false alarm.
    cases['ignored'] = [0, 0, 1, 0]
    assert count(cases, ['g'], 1).summed(np.ones((1, 1)))[0, 1] == pytest.approx(1)


def test_resamples_do_not_depend_on_each_other(monkeypatch):
    images = random_images(40)
    times = np.random.default_rng(1).multinomial(4, [0.25] * 4, 50)
    expected = [of_images(images).summed(one[None])[0] for one in times[:5]]
    assert of_images(images).summed(times)[:5] == pytest.approx(np.array(expected))
    monkeypatch.setattr(detections, '_CHUNK', 100)
    assert of_images(images).summed(times)[:5] == pytest.approx(np.array(expected))


def test_other_resamples_are_computed_again():
    found = of_images(random_images())
    one, two = np.eye(4)[:1], np.eye(4)[1:2]
    assert (found.summed(one) != found.summed(two)).any()
    assert found.summed(one) is found.summed(one.copy())


def test_bootstrap_of_a_difference_is_that_of_copied_images():
    images = random_images(members=('student_1', 'ensemble'))
    for index, one in enumerate(images):
        one['group'] = f'g{index:02}'
    cases = case_table(images)
    counts = Counts(
        'detection',
        {('', name): {0: one} for name, one in count_members(cases, class_count(cases)).items()},
    )
    contrasts = [Contrast(('', 'ensemble'), (('', 'student_1'),))]
    for place, measure in enumerate(('AP', 'AP50')):
        (found,) = estimate(counts, measure, contrasts, resamples=6)
        drawn = np.random.default_rng(0).integers(0, 16, (6, 16))
        expected = [
            np.subtract(*(pycocotools([images[i] for i in one], name)[place]
                          for name in ('ensemble', 'student_1')))
            for one in drawn
        ]  # fmt: skip
        np.testing.assert_allclose(found.distribution, expected, rtol=0, atol=1e-9)
        assert (found.groups, found.cases) == (16, 16)


def test_scores_of_all_members_with_intervals():
    images = random_images(30, members=('student_1', 'ensemble'))
    for one in images:
        one['group'] = one['id']
    found = case_scores(case_table(images), 'student_1', resamples=100)
    assert found[['measure', 'member']].to_numpy().tolist() == [
        [measure, name] for measure in ('AP', 'AP50') for name in ('ensemble', 'student_1')
    ]
    for name in ('ensemble', 'student_1'):
        values = found.loc[found['member'] == name, 'value']
        assert values.tolist() == pytest.approx(pycocotools(images, name))
    assert (found['low'] < found['value']).all()
    assert (found['value'] < found['high']).all()
    assert found['difference'].notna().tolist() == [True, False] * 2


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (dict(score=np.nan), 'expected finite scores'),
        (dict(hits=1024), r'\[0, 1024\)'),
        (dict(ignored=-1), r'\[0, 1024\)'),
        (dict(rank=1), "got 'i0' twice"),
        (dict(group='x'), r"got \['x'\]"),
    ],
)
def test_invalid_tables_raise(changes, message):
    cases = case_table(random_images())
    with pytest.raises(ValueError, match=message):
        count(cases.assign(**changes), GROUPS, 3)


def test_labels_outside_the_classes_raise():
    with pytest.raises(ValueError, match='labels: expected 2 classes'):
        count(case_table(random_images()), GROUPS, 2)


def test_nothing_found_is_zero():
    images = random_images()
    for one in images:
        one['found'] = dict(model=(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0)))
    assert of_images(images).summed(np.ones((1, 4))).tolist() == [[0, 0]]
