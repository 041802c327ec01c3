import numpy as np
import pandas as pd
import pytest
import torch

import mmkdml  # noqa: F401

# isort: split
from mmpretrain.evaluation import Accuracy

from mmkdml.evaluation import ForegroundIoU, MacroPrecisionRecall
from mmkdml.evaluation.case_table import CaseTable
from mmkdml.statistics.measures import MEASURES, class_count, count, measure_named, task_of_cases


def masks(classes, images=6, never=None):
    """Random truth and prediction, in which one class never occurs, in two groups."""
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
    counts = count(cases, sorted(set(cases['group'])), classes)
    return float(MEASURES[name].value(counts.sum(0)))


@pytest.mark.parametrize(('classes', 'never'), [(2, None), (4, None), (4, 2)])
def test_segmentation_is_what_our_metric_says(classes, never):
    samples = masks(classes, never=never)
    expected = by_metric(ForegroundIoU(), samples, classes)
    cases = case_table(samples, classes)
    assert value('IoU', cases, classes - 1) == pytest.approx(expected['foreground/IoU'])
    assert value('F1', cases, classes - 1) == pytest.approx(expected['foreground/F1'])


def test_nothing_in_the_foreground_is_nan():
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
            pred_label=torch.tensor([said]),
            pred_score=torch.tensor(score),
        )
        for index, (true, said, score) in enumerate(zip(truth, pred, scores, strict=True))
    ]


@pytest.mark.parametrize(
    ('truth', 'pred', 'classes'),
    [
        ([0, 0, 1, 1, 1, 0], [0, 1, 1, 0, 1, 0], 2),
        ([0, 1, 2, 2, 3, 3, 0], [0, 2, 2, 1, 3, 0, 0], 4),
        ([0, 1, 3, 3], [0, 0, 3, 0], 4),  # 1 is never predicted, 2 never there
        ([0, 1, 1], [0, 1, 2], 3),  # 2 is never right
    ],
)
def test_classification_is_what_the_metrics_of_the_configs_say(truth, pred, classes):
    samples = labelled(truth, pred, classes)
    expected = by_metric(MacroPrecisionRecall(), samples)
    cases = case_table(samples)
    top1 = by_metric(Accuracy(), samples)['accuracy/top1']
    assert class_count(cases) == classes
    assert value('accuracy', cases, classes) == pytest.approx(top1)
    for name in ('precision', 'recall'):
        assert value(name, cases, classes) == pytest.approx(expected[f'single-label/{name}'])


def test_a_class_that_no_table_tells_of_does_not_count():
    samples = labelled([0, 1], [0, 1], 3)
    assert class_count(case_table(samples)) == 2
    assert value('recall', case_table(samples), 2) == 100
    assert value('recall', case_table(samples), 3) == 100
    assert by_metric(MacroPrecisionRecall(), samples)['single-label/recall'] == 100


@pytest.mark.parametrize('name', ['precision', 'recall'])
def test_nothing_has_no_macro_mean(name):
    assert np.isnan(MEASURES[name].value(np.zeros((3, 2))))


def test_no_images_have_no_accuracy():
    assert np.isnan(MEASURES['accuracy'].value(np.zeros((3, 2))))


def test_counts_by_hand():
    cases = pd.DataFrame(
        dict(member='model', id=list('abcd'), group=['y', 'x', 'y', 'y'], truth=[0, 1, 1, 0])
    ).assign(pred=[0, 0, 1, 1])
    counts = count(cases, ['y', 'z', 'x'], 2)
    assert counts[0].tolist() == [[1, 1], [0, 1], [1, 0]]
    assert not counts[1].any()
    assert counts[2].tolist() == [[0, 0], [1, 0], [0, 1]]


def test_groups_add_up_to_the_whole_set():
    cases = case_table(masks(4), 4)
    parts = count(cases, ['g0', 'g1'], 3)
    whole = count(cases.assign(group='all'), ['all'], 3)
    assert parts.all(axis=None)
    assert (parts.sum(0) == whole[0]).all()


@pytest.mark.parametrize('name', MEASURES)
def test_many_counts_at_once_are_each_by_itself(name):
    counts = np.random.default_rng(0).integers(0, 3, (5, 4, 3, 2))
    together = MEASURES[name].value(counts)
    assert together.shape == (5, 4)
    for index in np.ndindex(5, 4):
        np.testing.assert_equal(together[index], MEASURES[name].value(counts[index]))


def test_names_stand_for_themselves():
    assert all(measure_named(name).name == name for name in MEASURES)
    with pytest.raises(ValueError, match="measure among IoU, F1, accuracy, .*, got 'mIoU'"):
        measure_named('mIoU')


SEGMENTED = pd.DataFrame(
    dict(member='model', id=['a', 'b'], group=['x', 'y'], label=[1, 2], tp=1, fp=0, fn=3)
)
CLASSIFIED = pd.DataFrame(dict(member='model', id=['a', 'b'], group='x', truth=[0, 1], pred=[1, 2]))


def test_tasks_and_classes():
    assert (task_of_cases(SEGMENTED), class_count(SEGMENTED)) == ('segmentation', 2)
    assert (task_of_cases(CLASSIFIED), class_count(CLASSIFIED)) == ('classification', 3)
    assert class_count(CLASSIFIED.iloc[:0]) == 0


@pytest.mark.parametrize(
    ('cases', 'message'),
    [
        (SEGMENTED.drop(columns='fn'), r"the columns .*got \['member', 'id', .*test the run again"),
        (pd.concat([SEGMENTED, SEGMENTED[1:]]), "each case of a member once, got 'b' twice"),
        (CLASSIFIED.assign(id='a'), "each case of a member once, got 'a' twice"),
        (SEGMENTED.assign(group=['x', 'w']), r"groups among the 2 given, got \['w'\] too"),
        (SEGMENTED.assign(label=[1, 3]), 'labels of 2 classes, got'),
        (SEGMENTED.assign(label=[1, 0]), 'labels of 2 classes, got'),
        (CLASSIFIED, 'labels of 2 classes, got'),
        (CLASSIFIED.assign(truth=[0, -1], pred=0), 'labels of 2 classes, got'),
    ],
)
def test_refuses_tables_it_cannot_count(cases, message):
    with pytest.raises(ValueError, match=message):
        count(cases, ['x', 'y'], 2)


@pytest.mark.parametrize('cases', [SEGMENTED, CLASSIFIED])
def test_tables_are_not_changed(cases):
    before = cases.copy()
    count(cases, ['x', 'y'], 3)
    pd.testing.assert_frame_equal(cases, before)
