import math

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torchmetrics.functional.classification import binary_matthews_corrcoef

from mmkdml.evaluation.diversity import Diversity
from mmkdml.registry import METRICS

PREFIX = 'students/diversity'


def classified(label):
    return DataSample().set_pred_score(torch.eye(3)[label]).set_pred_label(label)


def segmented(labels):
    return SegDataSample(
        seg_logits=PixelData(data=torch.ones(3, *labels.shape)),
        pred_sem_seg=PixelData(data=labels[None]),
    )


def samples_of(truth, **predictions):
    """Return samples with the predicted labels of each member; the ensemble predicts 0."""
    samples = []
    for index, label in enumerate(truth):
        sample = classified(0).set_gt_label(int(label))
        sample.members = BaseDataElement(
            **{name: classified(int(own[index])) for name, own in predictions.items()}
        )
        samples.append(sample)
    return samples


def drawn(members, count=60, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(3, size=count), {name: rng.integers(3, size=count) for name in members}


def test_by_hand(run):
    # Errors: student_1 in the 3rd and 4th, student_2 in the 4th and 5th, both predict 2 in the 4th.
    samples = samples_of(
        [0, 0, 0, 0, 0], teacher=[1] * 5, student_1=[0, 0, 1, 2, 0], student_2=[0, 0, 0, 2, 1]
    )
    assert run(dict(type=Diversity), samples) == {
        f'{PREFIX}/disagreement': 40.0,
        # (1/5 - 2/5 * 2/5) / (2/5 * 3/5)
        f'{PREFIX}/error_correlation': pytest.approx(1 / 6),
    }


def test_error_correlation_equals_numpy_and_torchmetrics(run):
    truth, predictions = drawn(('student_1', 'student_2'))
    values = run(Diversity(), samples_of(truth, **predictions))
    errors = [own != truth for own in predictions.values()]
    value = values[f'{PREFIX}/error_correlation']
    assert value == pytest.approx(np.corrcoef(errors)[0, 1])
    assert value == pytest.approx(
        binary_matthews_corrcoef(*(torch.tensor(own).long() for own in errors)).item(), abs=1e-6
    )


@pytest.mark.parametrize(
    ('second', 'disagreement', 'correlation'),
    [([0, 0, 1, 1], 0.0, 1.0), ([1, 1, 0, 0], 100.0, -1.0), ([0, 1, 0, 1], 50.0, 0.0)],
)
def test_extremes(run, second, disagreement, correlation):
    samples = samples_of([0] * 4, student_1=[0, 0, 1, 1], student_2=second)
    assert list(run(Diversity(), samples).values()) == [disagreement, pytest.approx(correlation)]


def test_perfect_student_has_no_correlation(run):
    values = run(Diversity(), samples_of([0, 0], student_1=[0, 0], student_2=[0, 1]))
    assert values[f'{PREFIX}/disagreement'] == 50
    assert math.isnan(values[f'{PREFIX}/error_correlation'])


def test_three_students_have_means_and_pairs(run):
    names = ('student_1', 'student_2', 'student_3')
    truth, predictions = drawn(names)
    values = run(Diversity(), samples_of(truth, **predictions))
    pairs = {}
    for a, b in ((0, 1), (0, 2), (1, 2)):
        two = {names[i]: predictions[names[i]] for i in (a, b)}
        for key, value in run(Diversity(), samples_of(truth, **two)).items():
            pairs[f'{key}_{names[a]}_{names[b]}'] = value
    for key in ('disagreement', 'error_correlation'):
        own = [value for name, value in pairs.items() if f'/{key}_' in name]
        assert len(set(own)) == 3
        pairs[f'{PREFIX}/{key}'] = np.mean(own)
    assert values == pytest.approx(pairs)


def test_masks_without_ignored_pixels(run):
    rng = torch.Generator().manual_seed(0)
    truth, first, second = (torch.randint(3, (4, 5), generator=rng) for _ in range(3))
    truth[0] = 255
    sample = segmented(first)
    sample.gt_sem_seg = PixelData(data=truth[None])
    sample.members = BaseDataElement(student_1=segmented(first), student_2=segmented(second))
    values = run(Diversity(), [sample])
    counted = [side[1:].flatten().numpy() for side in (truth, first, second)]
    assert values[f'{PREFIX}/disagreement'] == pytest.approx(
        100 * np.mean(counted[1] != counted[2])
    )
    assert values[f'{PREFIX}/error_correlation'] == pytest.approx(
        np.corrcoef(counted[1] != counted[0], counted[2] != counted[0])[0, 1]
    )


def test_named_students(run):
    truth, predictions = drawn(('big', 'small', 'tiny'))
    samples = samples_of(truth, **predictions)
    chosen = METRICS.build(dict(type=Diversity, students=('small', 'tiny')))
    only = run(Diversity(), samples_of(truth, small=predictions['small'], tiny=predictions['tiny']))
    assert run(chosen, samples) == only
    assert len(run(Diversity(), samples)) == 8


def test_fewer_than_two_students_have_no_values(run):
    assert run(Diversity(), samples_of([0], teacher=[0], student_1=[1])) == {}
    assert run(Diversity(), [classified(0)]) == {}  # a plain network without ground truth


def test_invalid_inputs_raise(run):
    for students in ('student_1', ['student_1']):
        with pytest.raises(ValueError, match='students: expected two or more names, got'):
            Diversity(students=students)
    samples = samples_of([0], student_1=[0], student_2=[0])
    with pytest.raises(ValueError, match=r"students \['x'\]: expected some of \['student_1'"):
        run(Diversity(students=['student_1', 'x']), samples)
    sample = segmented(torch.zeros(2, 2, dtype=torch.long))
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 3, 3, dtype=torch.long))
    sample.members = BaseDataElement(student_1=sample.clone(), student_2=sample.clone())
    with pytest.raises(ValueError, match=r"the size of the truth, 9, got \{'student_1': 4"):
        run(Diversity(), [sample])


def apart(*places):
    """Return a box at each place; they do not overlap."""
    return [[20 * place, 0, 20 * place + 10, 10] for place in places]


def detectors_of(boxes, seen, false=((), ()), scores=0.9):
    """Return samples in which two students find the true boxes for which ``seen`` is true.

    Args:
        seen: By sample, (2, T).
        false: Places of false boxes of each student, in each sample.
    """
    samples = []
    for img_id, columns in enumerate(seen):
        students = {}
        for name, own, others in zip(('student_1', 'student_2'), columns, false, strict=True):
            places = [*np.flatnonzero(own), *others]
            students[name] = (apart(*places), [0] * len(places), [scores] * len(places))
        number = len(columns[0])
        truth = apart(*range(number)), [0] * number
        samples.append(boxes.classroom(img_id, truth, **students))
    return samples


def test_boxes_by_hand(run, boxes):
    # One false box is the same for both students, another one only student_1 predicts.
    seen = np.array([[1, 1, 0, 0], [1, 0, 1, 0]])
    samples = detectors_of(boxes, [seen], false=([4, 5], [4]))
    assert run(Diversity(), samples, boxes.META) == {
        f'{PREFIX}/disagreement': pytest.approx(100 * 3 / 7),
        f'{PREFIX}/error_correlation': 0.0,
    }


def test_error_correlation_of_boxes_equals_numpy(run, boxes):
    rng = np.random.default_rng(0)
    seen = [rng.random((2, int(rng.integers(0, 6)))) < 0.6 for _ in range(30)]
    values = run(Diversity(), detectors_of(boxes, seen), boxes.META)
    a, b = np.concatenate(seen, axis=1)
    assert values[f'{PREFIX}/error_correlation'] == pytest.approx(np.corrcoef(a, b)[0, 1])
    assert values[f'{PREFIX}/disagreement'] == pytest.approx(
        100 * (a != b).sum() / (a.sum() + b.sum())
    )


def test_boxes_of_another_class_or_place_are_no_partners(run, boxes):
    def disagreement(other, label):
        sample = boxes.classroom(
            0, ([], []), student_1=(apart(0), [0], [0.9]), student_2=([other], [label], [0.9])
        )
        return run(Diversity(), [sample], boxes.META)[f'{PREFIX}/disagreement']

    assert disagreement([0, 0, 10, 5], 0) == 0  # IoU 0.5
    assert disagreement([0, 0, 10, 4.9], 0) == 100
    assert disagreement([0, 0, 10, 10], 1) == 100


def test_boxes_count_from_the_threshold(run, boxes):
    samples = detectors_of(boxes, [np.array([[1, 0], [0, 1]])], scores=0.25)
    for threshold, expected in ((0.25, 100), (0.3, math.nan)):
        values = run(Diversity(score_threshold=threshold), samples, boxes.META)
        assert values[f'{PREFIX}/disagreement'] == pytest.approx(expected, nan_ok=True)
    with pytest.raises(ValueError, match='score_threshold: expected a value .* got -1'):
        Diversity(score_threshold=-1)


def test_three_detectors_have_pairs(run, boxes):
    values = run(Diversity(), boxes.random(names=('teacher', 'a', 'b', 'c')), boxes.META)
    pairs = [values[f'{PREFIX}/disagreement_{pair}'] for pair in ('a_b', 'a_c', 'b_c')]
    assert values[f'{PREFIX}/disagreement'] == pytest.approx(np.mean(pairs))
    assert run(Diversity(), boxes.random(names=('teacher', 'a')), boxes.META) == {}
