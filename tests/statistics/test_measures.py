import numpy as np
import pandas as pd
import pytest
import torch

# isort: split
from mmpretrain.evaluation import Accuracy
from torchmetrics.functional.classification import (
    multilabel_f1_score,
    multilabel_precision,
    multilabel_recall,
)

from mmkdml.evaluation import ForegroundIoU, MacroPrecisionRecall
from mmkdml.evaluation.case_table import CaseTable
from mmkdml.names import CASE_VALUES
from mmkdml.statistics.case_scores import case_scores
from mmkdml.statistics.counts import count_members
from mmkdml.statistics.measures import (
    DETECTION,
    MEASURES,
    class_count,
    count,
    measures_of,
    task_of_cases,
)


def masks(classes, images=6, never=None):
    """Random ground truth and predictions in two groups, optionally without one class."""
    rng = torch.Generator().manual_seed(classes)
    samples = []
    for index in range(images):
        pred, truth = torch.randint(classes, (2, 1, 7, 9), generator=rng)
        for mask in (pred, truth):
            mask[mask == never] = 0
        samples.append(
            dict(
                id=f'i{index}',
                group=f'g{index % 2}',
                pred_sem_seg=dict(data=pred),
                gt_sem_seg=dict(data=truth),
            )
        )
    return samples


def by_metric(metric, samples, classes=None):
    metric.dataset_meta = classes and dict(classes=[str(index) for index in range(classes)])
    metric.process(None, samples)
    return metric.evaluate(len(samples))


def case_table(samples, classes=None):
    metric = CaseTable()
    by_metric(metric, samples, classes)
    return metric.table


def value(name, cases, classes):
    (counts,) = count_members(cases, classes).values()
    return float(MEASURES[name].value(counts.total()))


@pytest.mark.parametrize(('classes', 'never'), [(2, None), (4, None), (4, 2)])
def test_segmentation_equals_foreground_iou(classes, never):
    samples = masks(classes, never=never)
    expected = by_metric(ForegroundIoU(), samples, classes)
    cases = case_table(samples, classes)
    assert value('IoU', cases, classes - 1) == pytest.approx(expected['foreground/IoU'])
    assert value('F1', cases, classes - 1) == pytest.approx(expected['foreground/F1'])


def test_no_foreground_is_nan():
    cases = case_table(masks(2, never=1), 2)
    assert np.isnan(value('IoU', cases, 1))
    assert np.isnan(value('F1', cases, 1))


def labelled(truth, pred, classes):
    scores = np.eye(classes)[list(pred)] * 0.9 + 0.01
    return [
        dict(
            id=str(index),
            group=f'g{index % 2}',
            gt_label=torch.tensor([true]),
            pred_label=torch.tensor([predicted]),
            pred_score=torch.tensor(score),
        )
        for index, (true, predicted, score) in enumerate(zip(truth, pred, scores, strict=True))
    ]


@pytest.mark.parametrize(
    ('truth', 'pred', 'classes'),
    [
        ([0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 1, 0], 2),
        ([0, 1, 2, 2, 3, 3, 0], [0, 2, 2, 1, 3, 0, 0], 4),
        ([0, 1, 3, 3], [0, 0, 3, 0], 4),  # 1 is never predicted, 2 never occurs
        ([0, 1, 1], [0, 1, 2], 3),  # 2 occurs only in predictions
    ],
)
def test_classification_equals_the_metrics_of_the_configs(truth, pred, classes):
    samples = labelled(truth, pred, classes)
    expected = by_metric(MacroPrecisionRecall(), samples)
    cases = case_table(samples)
    top1 = by_metric(Accuracy(), samples)['accuracy/top1']
    assert class_count(cases) == classes
    assert value('accuracy', cases, classes) == pytest.approx(top1)
    for name in ('precision', 'recall'):
        assert value(name, cases, classes) == pytest.approx(expected[f'single-label/{name}'])


def test_class_without_cases_is_ignored():
    samples = labelled([0, 1], [0, 1], 3)
    cases = case_table(samples)
    assert class_count(cases) == 3  # scores
    assert value('recall', cases, 3) == 100
    without = cases[['member', 'id', 'group', 'truth', 'pred']]
    assert class_count(without) == 2
    assert value('recall', without, 2) == 100
    assert value('recall', without, 3) == 100
    assert by_metric(MacroPrecisionRecall(), samples)['single-label/recall'] == 100


OF_COUNTS = [name for name, one in MEASURES.items() if DETECTION not in one.tasks]
ROWS = 3 + 2 * len(CASE_VALUES)


@pytest.mark.parametrize('name', OF_COUNTS)
def test_no_images_are_nan(name):
    rows = np.full((3, 2), np.nan) if MEASURES[name].ranked else np.zeros((ROWS, 2))
    assert np.isnan(MEASURES[name].value(rows))


def test_counts_of_four_images():
    cases = pd.DataFrame(
        dict(member='model', id=list('abcd'), group=['y', 'x', 'y', 'y'], truth=[0, 1, 1, 0])
    ).assign(pred=[0, 0, 1, 1])
    counts = count(cases, ['y', 'z', 'x'], 2)
    assert counts[0].tolist() == [[1, 1], [0, 1], [1, 0]]
    assert not counts[1].any()
    assert counts[2].tolist() == [[0, 0], [1, 0], [0, 1]]


def test_counts_of_groups_sum_to_those_of_the_data_set():
    cases = case_table(masks(4), 4)
    parts = count(cases, ['g0', 'g1'], 3)
    total = count(cases.assign(group='all'), ['all'], 3)
    assert parts.shape == (2, 3 + 2 * 2, 3)  # with Dice and IoU of the images
    assert parts.all(axis=None)
    np.testing.assert_allclose(parts.sum(0), total[0], rtol=1e-12)


@pytest.mark.parametrize('name', OF_COUNTS)
def test_leading_dimensions_are_independent(name):
    counts = np.random.default_rng(0).integers(0, 3, (5, 4, ROWS, 2))
    values = MEASURES[name].value(counts)
    assert values.shape == (5, 4)
    for index in np.ndindex(5, 4):
        np.testing.assert_equal(values[index], MEASURES[name].value(counts[index]))


SEGMENTED = pd.DataFrame(
    dict(member='model', id=['a', 'b'], group=['x', 'y'], label=[1, 2], tp=1, fp=0, fn=3)
)
CLASSIFIED = pd.DataFrame(dict(member='model', id=['a', 'b'], group='x', truth=[0, 1], pred=[1, 2]))


def test_task_and_number_of_classes():
    assert (task_of_cases(SEGMENTED), class_count(SEGMENTED)) == ('segmentation', 2)
    assert (task_of_cases(CLASSIFIED), class_count(CLASSIFIED)) == ('classification', 3)
    assert class_count(CLASSIFIED.iloc[:0]) == 0
    assert class_count(SEGMENTED.assign(label=1 << 16)) == 1 << 16
    with pytest.raises(ValueError, match='65536 classes, got 65537'):
        class_count(SEGMENTED.assign(label=(1 << 16) + 1))


@pytest.mark.parametrize(
    ('cases', 'message'),
    [
        (SEGMENTED.drop(columns='fn'), r"columns .*got \['member', 'id', "),
        (pd.concat([SEGMENTED, SEGMENTED[1:]]), "got 'b' twice"),
        (CLASSIFIED.assign(id='a'), "got 'a' twice"),
        (SEGMENTED.assign(group=['x', 'w']), r"groups: expected \['x', 'y'\] .* got \['w'\]"),
        (SEGMENTED.assign(label=[1, 3]), 'labels: expected 2 classes, got'),
        (SEGMENTED.assign(label=[1, 0]), 'labels: expected 2 classes, got'),
        (CLASSIFIED, 'labels: expected 2 classes, got'),
        (CLASSIFIED.assign(truth=[0, -1], pred=0), 'labels: expected 2 classes, got'),
    ],
)
def test_invalid_case_table_raises(cases, message):
    with pytest.raises(ValueError, match=message):
        count(cases, ['x', 'y'], 2)


@pytest.mark.parametrize('cases', [SEGMENTED, CLASSIFIED])
def test_case_tables_are_not_modified(cases):
    before = cases.copy()
    count(cases, ['x', 'y'], 3)
    pd.testing.assert_frame_equal(cases, before)


def multi_label_cases(truth, pred):
    return pd.DataFrame(
        [
            ('model', str(index), f'g{index % 2}', k, truth[index, k], pred[index, k])
            for index, k in np.ndindex(truth.shape)
        ],
        columns=['member', 'id', 'group', 'label', 'truth', 'pred'],
    )


def test_several_labels_equal_torchmetrics():
    truth, pred = np.random.default_rng(0).integers(0, 2, (2, 30, 4))
    cases = multi_label_cases(truth, pred)
    assert (task_of_cases(cases), class_count(cases)) == ('multi-label classification', 4)
    both = torch.from_numpy(pred), torch.from_numpy(truth)
    for name, expected in (
        ('precision', multilabel_precision),
        ('recall', multilabel_recall),
        ('F1', multilabel_f1_score),
    ):
        assert value(name, cases, 4) == pytest.approx(100 * expected(*both, 4).item(), rel=1e-5)
    parts = count(cases, ['g0', 'g1'], 4)
    assert parts[0, 0].tolist() == (truth & pred)[::2].sum(0).tolist()
    scores = case_scores(cases, resamples=50)
    assert set(scores['measure']) == {'precision', 'recall', 'F1'}
    assert (scores['low'] <= scores['value']).all()
    assert (scores['value'] <= scores['high']).all()
    with pytest.raises(ValueError, match="got '0' twice"):
        count(pd.concat([cases, cases[:1]]), ['g0', 'g1'], 4)


def valued_cases():
    """Cases of two classes in three groups, some without a value."""
    nan = np.nan
    return pd.DataFrame(
        dict(
            member='model',
            id=['a', 'a', 'b', 'b', 'c', 'c', 'd', 'd'],
            group=['x', 'x', 'x', 'x', 'y', 'y', 'z', 'z'],
            label=[1, 2] * 4,
            tp=[6, 0, 2, 1, 3, 0, 0, 0],
            fp=[1, 2, 0, 1, 3, 0, 0, 0],
            fn=[1, 0, 2, 0, 0, 0, 4, 0],
            HD95=[2.0, 8.0, 4.0, 1.0, 6.0, nan, 9.0, nan],
        )
    )


@pytest.mark.parametrize('drawn', [[0, 1, 2], [0, 0, 2], [1, 1, 1], [2, 2, 0]])
def test_values_of_cases_are_averaged_over_cases_then_classes(drawn):
    cases = valued_cases()
    counts = count(cases, ['x', 'y', 'z'], 2)
    copies = pd.concat([cases[cases['group'] == 'xyz'[index]] for index in drawn])
    tp, fp, fn = (copies[name] for name in ('tp', 'fp', 'fn'))
    copies = copies.assign(
        Dice=200 * tp / (2 * tp + fp + fn), case_IoU=100 * tp / (tp + fp + fn)
    )  # nan for class 2 of the last cases, which have none
    summed = np.bincount(drawn, minlength=3) @ counts.reshape(3, -1)
    for name in ('Dice', 'case_IoU', 'HD95'):
        expected = copies.groupby('label')[name].mean().mean()
        found = MEASURES[name].value(summed.reshape(counts.shape[1:]))
        assert found == pytest.approx(expected), name


def test_measures_of_a_table_depend_on_its_columns():
    cases = valued_cases()
    assert measures_of(cases) == ['IoU', 'F1', 'Dice', 'case_IoU', 'HD95']
    assert measures_of(cases.drop(columns='HD95')) == ['IoU', 'F1', 'Dice', 'case_IoU']
    counted = ['accuracy', 'F1', 'balanced_accuracy', 'precision', 'recall']
    assert measures_of(CLASSIFIED) == counted
    scored = CLASSIFIED.assign(score_0=0.5, score_1=0.25, score_2=0.25)
    assert measures_of(scored) == [*counted, 'AUROC', 'AUPRC', 'sensitivity_at_95', 'Brier']


def test_balanced_accuracy_ignores_classes_without_images():
    cases = case_table(labelled([0, 0, 0, 1], [0, 0, 2, 1], 3))
    assert value('balanced_accuracy', cases, 3) == pytest.approx((200 / 3 + 100) / 2)


@pytest.mark.parametrize('scores', [[0.5, np.nan], [0.5, np.inf]])
def test_scores_that_are_not_finite_raise(scores):
    cases = CLASSIFIED.assign(pred=[1, 0], score_0=0.5, score_1=scores)
    with pytest.raises(ValueError, match='finite number for each of 2 classes'):
        count(cases, ['x', 'y'], 2)
