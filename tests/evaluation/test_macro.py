import logging
import math

import pytest
import torch
from mmpretrain.evaluation import SingleLabelMetric

from mmkdml.evaluation import MacroPrecisionRecall, MemberMetrics

ALL = ('precision', 'recall', 'f1-score')


@pytest.fixture(autouse=True)
def log(monkeypatch, caplog):
    """Log messages; none was logged before."""
    monkeypatch.setattr(MacroPrecisionRecall, '_logged', set())
    monkeypatch.setattr(
        'mmkdml.evaluation.macro.print_log',
        lambda message, logger, level: logging.getLogger('run').log(level, message),
    )
    caplog.set_level(logging.INFO)
    return caplog


def samples(truth, predicted, classes):
    return [
        dict(
            gt_label=torch.tensor([true]),
            pred_label=torch.tensor([label]),
            pred_score=torch.eye(classes)[label] * 0.9 + 0.01,
        )
        for true, label in zip(truth, predicted, strict=True)
    ]


def evaluate(truth, predicted, classes, metric=MacroPrecisionRecall, names=None, **settings):
    metric = metric(**{'items': ALL, **settings})
    metric.dataset_meta = names and dict(classes=names)
    metric.process(None, samples(truth, predicted, classes))
    found = metric.evaluate(len(truth))
    return [found[f'single-label/{item}'] for item in metric.items]


def by_hand(truth, predicted, zero):
    """Compute the means by the rules of scikit-learn, class by class."""
    scores = []
    for label in sorted({*truth, *predicted}):
        right = sum(t == p == label for t, p in zip(truth, predicted, strict=True))
        support, assigned = truth.count(label), predicted.count(label)
        scores.append(
            (
                right / assigned if assigned else zero,
                right / support if support else zero,
                2 * right / (support + assigned),
            )
        )
    means = []
    for values in zip(*scores, strict=True):
        defined = [value for value in values if not math.isnan(value)]
        means.append(100 * sum(defined) / len(defined) if defined else math.nan)
    return means


def test_scikit_learn_examples():
    # precision_recall_fscore_support: cat, dog, pig are 0, 1, 2.
    truth, predicted = [0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1]
    assert evaluate(truth, predicted, 3) == pytest.approx([22.22, 33.33, 26.67], abs=0.01)
    # recall_score: [0.5, 0, 0], [0.5, 1, 1] and [0.5, nan, nan] of each class.
    truth, predicted = [0, 0, 0, 0, 0, 0], [0, 1, 2, 0, 0, 1]
    for zero, mean in ((0, 0.5 / 3), (1, 2.5 / 3), (math.nan, 0.5)):
        (recall,) = evaluate(truth, predicted, 3, items=('recall',), zero_division=zero)
        assert recall == pytest.approx(100 * mean)


@pytest.mark.parametrize('zero', [0, 1, math.nan])
@pytest.mark.parametrize('seed', range(6))
def test_classes_that_do_not_occur(seed, zero):
    rng = torch.Generator().manual_seed(seed)
    truth = (torch.randint(3, (9,), generator=rng) * 2).tolist()  # 0, 2, 4
    predicted = (torch.randint(3, (9,), generator=rng) + seed % 3).tolist()
    expected = by_hand(truth, predicted, zero)
    found = evaluate(truth, predicted, 7, zero_division=zero)
    assert found == pytest.approx(expected, nan_ok=True)
    # The same without scores.
    metric = MacroPrecisionRecall(items=ALL, zero_division=zero, num_classes=7)
    metric.process(
        None,
        [
            {key: x for key, x in one.items() if key != 'pred_score'}
            for one in samples(truth, predicted, 7)
        ],
    )
    assert [*metric.evaluate(9).values()] == pytest.approx(expected, nan_ok=True)


def test_equals_mmpretrain_if_all_classes_occur():
    truth, predicted = [0, 1, 2, 2, 3, 3, 0], [0, 2, 2, 1, 3, 0, 0]
    expected = evaluate(truth, predicted, 4, SingleLabelMetric)
    assert evaluate(truth, predicted, 4) == pytest.approx(expected)


def test_absent_classes_are_logged_once(log):
    evaluate([0, 0, 1], [0, 2, 0], 4, names=('a', 'b', 'c', 'd'))
    (warning,) = [one for one in log.records if one.levelno == logging.WARNING]
    assert "classes 'c', 'd'" in warning.message
    assert 'is 0' in warning.message
    (info,) = [one for one in log.records if one.levelno == logging.INFO]
    assert "class 'b' never predicted" in info.message
    log.clear()
    evaluate([0, 0, 1], [0, 1, 0], 4, names=('a', 'b', 'c', 'd'))
    assert not log.records  # another member or epoch
    evaluate([0, 1], [0, 1], 3, zero_division=math.nan)
    assert 'class 2' in log.text
    assert 'is excluded' in log.text


def test_members_log_absent_classes_once(log):
    metric = MemberMetrics(MacroPrecisionRecall())
    metric.dataset_meta = dict(classes=('a', 'b', 'c'))
    batch = [
        dict(one, members=dict(student_1=dict(one), student_2=dict(one)))
        for one in samples([0, 1], [0, 1], 3)
    ]
    metric.process(None, batch)
    found = metric.evaluate(2)
    assert found['student_1/single-label/recall'] == found['ensemble/single-label/recall'] == 100
    assert len(log.records) == 1


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(items=('accuracy',)), "items: expected some of .*, got .'accuracy'"),
        (dict(items=()), 'items'),
        (dict(zero_division=0.5), 'zero_division: expected 0, 1 or nan, got 0.5'),
    ],
)
def test_invalid_settings_raise(settings, message):
    with pytest.raises(ValueError, match=message):
        MacroPrecisionRecall(**settings)
