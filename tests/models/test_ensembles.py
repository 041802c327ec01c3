import itertools

import pytest
import torch

from mmkdml.models.ensembles import (
    decide,
    max_ensemble,
    mean_ensemble,
    per_class,
    union_ensemble,
    vote_ensemble,
)

ENSEMBLES = dict(max=max_ensemble, union=union_ensemble, mean=mean_ensemble, vote=vote_ensemble)
NAMES = tuple(ENSEMBLES)
SIZES = [(), (3, 4)]  # vectors and maps


def example(num_students, num_classes, size=(), seed=0):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_students, 5, num_classes, *size, generator=rng, dtype=torch.float64)
    return logits.sigmoid() if num_classes == 1 else logits.mul(2).softmax(dim=2)


def slow_ensemble(name, students, threshold):
    """Scores and label of one position in plain Python; ``students`` is a list of lists."""
    num_classes = len(students[0])
    mean = [sum(column) / len(students) for column in zip(*students, strict=True)]
    if name == 'mean':
        scores = mean
    elif name == 'vote':
        if num_classes == 1:
            votes = [int(p[0] > threshold) for p in students]
            share = sum(votes) / len(votes)
            label = int(mean[0] > threshold) if share == 0.5 else int(share > 0.5)
            return [share], label
        votes = [p.index(max(p)) for p in students]
        scores = [votes.count(k) / len(votes) for k in range(num_classes)]
        best = [k for k in range(num_classes) if scores[k] == max(scores)]
        return scores, max(best, key=lambda k: mean[k])
    else:
        scores = [max(column) for column in zip(*students, strict=True)]
        if name == 'union' and num_classes == 2:
            scores = [1 - scores[1], scores[1]]
    if num_classes == 1:
        return scores, int(scores[0] > threshold)
    return scores, scores.index(max(scores))


@pytest.mark.parametrize('threshold', [0.5, 0.3, 0.8])
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('num_students', [1, 2, 3])
@pytest.mark.parametrize('num_classes', [1, 2, 3])
@pytest.mark.parametrize('name', NAMES)
def test_ensembles_equal_a_loop_over_positions(name, num_classes, num_students, size, threshold):
    probabilities = example(num_students, num_classes, size)
    scores, labels = ENSEMBLES[name](probabilities, threshold)
    assert scores.shape == (5, num_classes, *size)
    assert labels.shape == (5, *size)
    assert labels.dtype == torch.long
    assert scores.dtype == probabilities.dtype
    for at in itertools.product(range(5), *map(range, size)):
        n, pixel = at[0], at[1:]
        expected_scores, expected_label = slow_ensemble(
            name, probabilities[(slice(None), n, slice(None), *pixel)].tolist(), threshold
        )
        assert scores[(n, slice(None), *pixel)].tolist() == pytest.approx(expected_scores)
        assert labels[at].item() == expected_label


@pytest.mark.parametrize(
    ('name', 'scores', 'label'),
    [
        ('max', [0.6, 0.7, 0.1], 1),
        ('union', [0.6, 0.7, 0.1], 1),
        ('mean', [1.4 / 3, 1.3 / 3, 0.3 / 3], 0),
        ('vote', [2 / 3, 1 / 3, 0], 0),
    ],
)
def test_three_students_and_classes_by_hand(name, scores, label):
    students = torch.tensor([[[0.6, 0.3, 0.1]], [[0.6, 0.3, 0.1]], [[0.2, 0.7, 0.1]]])
    got, labels = ENSEMBLES[name](students)
    torch.testing.assert_close(got, torch.tensor([scores]))
    assert labels.tolist() == [label]


@pytest.mark.parametrize(
    ('name', 'scores', 'labels'),
    [
        ('max', [0.9, 0.4, 0.6], [1, 0, 1]),
        ('union', [0.9, 0.4, 0.6], [1, 0, 1]),
        ('mean', [0.6, 0.3, 0.3], [1, 0, 0]),
        ('vote', [0.5, 0.0, 0.5], [1, 0, 0]),
    ],
)
def test_two_students_with_one_logit_by_hand(name, scores, labels):
    students = torch.tensor([[[0.9], [0.2], [0.0]], [[0.3], [0.4], [0.6]]])
    got, found = ENSEMBLES[name](students)
    torch.testing.assert_close(got, torch.tensor(scores).unsqueeze(1))
    assert found.tolist() == labels


def test_max_and_union_differ_for_two_classes():
    students = torch.tensor([[[0.9, 0.1]], [[0.4, 0.6]]])
    assert ENSEMBLES['max'](students)[1].tolist() == [0]
    scores, labels = ENSEMBLES['union'](students)
    assert labels.tolist() == [1]
    torch.testing.assert_close(scores, torch.tensor([[0.4, 0.6]]))


@pytest.mark.parametrize('threshold', [0.5, 0.3, 0.8])
@pytest.mark.parametrize('num_students', [2, 3])
def test_union_of_one_logit_is_the_union_of_masks(num_students, threshold):
    probabilities = example(num_students, 1, (6, 6))
    scores, labels = ENSEMBLES['union'](probabilities, threshold)
    masks = [decide(student, threshold).bool() for student in probabilities]
    union = masks[0]
    for mask in masks[1:]:
        union = union | mask
    assert torch.equal(labels.bool(), union)
    assert torch.equal(labels.bool(), probabilities.amax(0).squeeze(1) > threshold)
    assert 0 < labels.sum() < labels.numel()


@pytest.mark.parametrize('spread', [1.0, 2e-7])
@pytest.mark.parametrize('num_students', [2, 3])
def test_union_of_two_classes_is_the_union_of_masks(num_students, spread):
    # In float32 and next to a tie, where 1 - p and p can round to one number.
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(num_students, 500, 1, 2, generator=rng).repeat(1, 1, 2, 1)
    logits[:, :, 1] += spread * torch.randn(num_students, 500, 2, generator=rng)
    probabilities = logits.softmax(dim=2)
    masks = [student[:, 1] > student[:, 0] for student in probabilities]
    union = masks[0]
    for mask in masks[1:]:
        union = union | mask
    _, labels = ENSEMBLES['union'](probabilities)
    assert torch.equal(labels.bool(), union)
    assert 0 < labels.sum() < labels.numel()


def test_union_of_more_classes_is_the_max():
    probabilities = example(3, 4, (3, 3))
    for union, highest in zip(
        ENSEMBLES['union'](probabilities), ENSEMBLES['max'](probabilities), strict=True
    ):
        assert torch.equal(union, highest)


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('num_classes', [1, 2, 3])
def test_ensemble_of_one_student_is_the_student(num_classes, name):
    probabilities = example(1, num_classes, (3, 4))
    scores, labels = ENSEMBLES[name](probabilities)
    assert torch.equal(labels, decide(probabilities[0], 0.5))
    if name != 'vote':
        torch.testing.assert_close(scores, probabilities[0])


@pytest.mark.parametrize(
    ('students', 'label'),
    [
        ([[0.6, 0.4, 0.0], [0.1, 0.8, 0.1]], 1),  # one each; means 0.35 and 0.6
        ([[0.9, 0.1, 0.0], [0.45, 0.55, 0.0]], 0),
        ([[0.4, 0.3, 0.3], [0.1, 0.5, 0.4], [0.1, 0.3, 0.6]], 2),
        # Class 2 has the highest mean, but is not one of the tied labels.
        ([[0.5, 0.0, 0.49], [0.5, 0.0, 0.49], [0.0, 0.5, 0.49], [0.0, 0.51, 0.49]], 1),
        # Scores of independent classes: class 1 leads by 0.6 in the mean, class 0 by a vote.
        (
            [
                [0.9, 0.9, 0.0, 0.0],
                [0.9, 0.9, 0.0, 0.0],
                [0.0, 1.0, 0.0, 0.0],
                [0.0, 0.99, 1.0, 0.0],
                [0.0, 0.99, 0.0, 1.0],
            ],
            0,
        ),
        # Two votes beat a certain one.
        ([[0.51, 0.49, 0.0], [0.51, 0.49, 0.0], [0.0, 1.0, 0.0]], 0),
        ([[0.5, 0.5], [0.5, 0.5]], 0),  # equal means: the first class
    ],
)
def test_mean_breaks_ties_of_votes_only(students, label):
    probabilities = torch.tensor(students).unsqueeze(1)
    assert ENSEMBLES['vote'](probabilities)[1].tolist() == [label]


@pytest.mark.parametrize(
    ('students', 'threshold', 'label'),
    [
        ([0.9, 0.2], 0.5, 1),
        ([0.6, 0.2], 0.5, 0),
        ([0.75, 0.25], 0.5, 0),  # a mean at the threshold is not above it
        ([0.9, 0.6], 0.8, 0),
        ([0.5, 0.1], 0.2, 1),
        ([0.9, 0.9, 0.0], 0.8, 1),
    ],
)
def test_ties_of_votes_with_one_logit(students, threshold, label):
    probabilities = torch.tensor(students).view(-1, 1, 1)
    assert ENSEMBLES['vote'](probabilities, threshold)[1].tolist() == [label]


@pytest.mark.parametrize('name', NAMES)
def test_probability_at_the_threshold_is_background(name):
    probabilities = torch.tensor([0.25, 0.75]).view(1, 2, 1)
    assert ENSEMBLES[name](probabilities, 0.75)[1].tolist() == [0, 0]
    assert ENSEMBLES[name](probabilities, 0.5)[1].tolist() == [0, 1]
    assert ENSEMBLES[name](probabilities, 0.2)[1].tolist() == [1, 1]


@pytest.mark.parametrize('num_classes', [1, 2, 3])
@pytest.mark.parametrize('name', NAMES)
def test_order_of_students_does_not_matter(name, num_classes):
    probabilities = example(3, num_classes, (3, 4))
    scores, labels = ENSEMBLES[name](probabilities)
    for order in itertools.permutations(range(3)):
        other_scores, other_labels = ENSEMBLES[name](probabilities[list(order)])
        torch.testing.assert_close(other_scores, scores)
        assert torch.equal(other_labels, labels)


@pytest.mark.parametrize('num_classes', [1, 2, 3])
@pytest.mark.parametrize('name', NAMES)
def test_inputs_are_not_modified(name, num_classes):
    probabilities = example(2, num_classes)
    before = probabilities.clone()
    scores, _ = ENSEMBLES[name](probabilities)
    scores.zero_()
    assert torch.equal(probabilities, before)


@pytest.mark.parametrize('threshold', [0.5, 0.3])
@pytest.mark.parametrize('name', ['max', 'mean', 'vote'])
def test_per_class_equals_a_loop_over_the_classes(name, threshold):
    probabilities = example(3, 4).sigmoid()
    scores, labels = per_class(ENSEMBLES[name])(probabilities, threshold)
    assert scores.shape == labels.shape == (5, 4)
    for k in range(4):
        score, label = ENSEMBLES[name](probabilities[:, :, [k]], threshold)
        assert torch.equal(scores[:, [k]], score)
        assert torch.equal(labels[:, k], label)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
def test_per_class_includes_the_threshold(dtype):
    scores = torch.tensor([[[0.3, 0.29999, 0.30001]]], dtype=dtype)
    assert per_class(ENSEMBLES['max'])(scores, 0.3)[1].tolist() == [[1, 0, 1]]
