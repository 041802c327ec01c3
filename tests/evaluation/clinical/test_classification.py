import math

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from torchmetrics.functional import classification as tm

from mmkdml.evaluation import CaseTable, ClinicalClassification
from mmkdml.statistics.case_scores import case_scores
from mmkdml.statistics.counts import count_members
from mmkdml.statistics.measures import MEASURES, measures_of

MEASURED = {'AUROC', 'AUPRC', 'sensitivity_at_95', 'F1', 'balanced_accuracy', 'Brier'}


def made(classes, cases=80, seed=0, multi_label=False):
    """Return truth, scores by member and samples."""
    rng = np.random.default_rng(seed)
    truth = rng.random((cases, classes)) < 0.3
    if not multi_label:
        truth = np.eye(classes, dtype=bool)[rng.integers(0, classes, cases)]
    scores = {}
    for name, skill in (('student_1', 0.2), ('ensemble', 0.5)):
        scores[name] = (rng.random((cases, classes)) + skill * truth) / (1 + skill)
        if not multi_label:
            scores[name] /= scores[name].sum(1, keepdims=True)
        scores[name] = scores[name].astype(np.float32)
    samples = []
    for index in range(cases):
        one = DataSample(metainfo=dict(id=f'i{index}', group=f'g{index % 9}'))
        one.set_gt_label(np.flatnonzero(truth[index]))
        own = {name: torch.from_numpy(values[index]) for name, values in scores.items()}
        labels = {
            name: (values >= 0.5).nonzero().flatten() if multi_label else values.argmax()[None]
            for name, values in own.items()
        }
        student = DataSample().set_pred_score(own['student_1']).set_pred_label(labels['student_1'])
        one.set_pred_score(own['ensemble']).set_pred_label(labels['ensemble'])
        one.members = BaseDataElement(student_1=student)
        samples.append(one)
    return truth, scores, samples


def evaluated(metric, samples, classes, multi_label=False):
    metric.dataset_meta = dict(classes=tuple('abcd'[:classes]), multi_label=multi_label)
    for start in range(0, len(samples), 7):
        metric.process(None, [one.to_dict() for one in samples[start : start + 7]])
    return metric.evaluate(len(samples))


def expected_values(scores, truth, multi_label):
    """Compute the values of each class with torchmetrics' functions of two classes."""
    pred = scores >= 0.5 if multi_label else np.eye(scores.shape[1])[scores.argmax(1)] == 1
    found = {name: [] for name in MEASURED}
    for label in range(scores.shape[1]):
        one, target = torch.from_numpy(scores[:, label]), torch.from_numpy(truth[:, label]).long()
        own = torch.from_numpy(pred[:, label])
        found['AUROC'].append(100 * tm.binary_auroc(one, target).item())
        found['AUPRC'].append(100 * tm.binary_average_precision(one, target).item())
        sensitivity = tm.binary_sensitivity_at_specificity(one, target, 0.95)[0].item()
        found['sensitivity_at_95'].append(100 * sensitivity)
        found['F1'].append(100 * tm.binary_f1_score(own, target).item())
        recall = tm.binary_recall(own, target).item()
        if multi_label:
            recall = (recall + tm.binary_specificity(own, target).item()) / 2
        found['balanced_accuracy'].append(100 * recall)
        found['Brier'].append(np.square(scores[:, label].astype(float) - truth[:, label]).mean())
    return found


@pytest.mark.parametrize(('classes', 'multi_label'), [(2, False), (4, False), (3, True)])
def test_equal_to_torchmetrics_by_class_and_their_mean(classes, multi_label):
    truth, scores, samples = made(classes, multi_label=multi_label)
    found = evaluated(ClinicalClassification(), samples, classes, multi_label)
    for member, own in scores.items():
        for name, values in expected_values(own, truth, multi_label).items():
            mean = np.mean(values)
            if name == 'Brier' and classes == 4:  # Brier (1950): the sum over the classes
                mean = np.square(own.astype(float) - truth).sum(1).mean()
            assert found[f'{member}/auc/{name}'] == pytest.approx(mean, rel=1e-5), name
            for label, value in enumerate(values):
                key = f'{member}/per_class/{name}_{"abcd"[label]}'
                if name == 'balanced_accuracy':
                    assert key not in found
                else:
                    assert found[key] == pytest.approx(value, rel=1e-5)


@pytest.mark.parametrize(('classes', 'multi_label'), [(2, False), (4, False), (3, True)])
def test_statistics_of_the_case_table_equal_the_metric(classes, multi_label):
    _, _, samples = made(classes, multi_label=multi_label)
    found = evaluated(ClinicalClassification(), samples, classes, multi_label)
    table = CaseTable()
    evaluated(table, samples, classes, multi_label)
    names = MEASURED - ({'balanced_accuracy'} if multi_label else set())
    assert names <= set(measures_of(table.table))
    for member, counts in count_members(table.table, classes).items():
        for name in names:
            value = float(MEASURES[name].value(counts.total()))
            assert value == pytest.approx(found[f'{member}/auc/{name}'], rel=1e-5), name


def test_scores_have_intervals_over_groups():
    _, _, samples = made(3)
    table = CaseTable()
    evaluated(table, samples, 3)
    found = case_scores(table.table, 'student_1', resamples=200).set_index(['measure', 'member'])
    for name in MEASURED:
        row = found.loc[name, 'ensemble']
        assert row['low'] < row['value'] < row['high'], name
        better = row['difference'] * (-1 if name == 'Brier' else 1)
        assert abs(better) > 0


def test_a_class_without_images_is_undefined_and_excluded():
    truth, _, samples = made(4)
    samples = [one for one, own in zip(samples, truth, strict=True) if not own[3]]
    found = evaluated(ClinicalClassification(), samples, 4)
    for name in ('AUROC', 'AUPRC', 'sensitivity_at_95'):
        values = [found[f'ensemble/per_class/{name}_{label}'] for label in 'abcd']
        assert math.isnan(values[3])
        assert found[f'ensemble/auc/{name}'] == pytest.approx(np.mean(values[:3]))
    assert math.isfinite(found['ensemble/auc/balanced_accuracy'])


@pytest.mark.parametrize('metric', [ClinicalClassification, CaseTable])
def test_scores_that_are_not_finite_raise(metric):
    _, _, samples = made(2, cases=4)
    samples[2].pred_score[1] = torch.nan
    with pytest.raises(ValueError, match='scores of i2: expected finite numbers'):
        evaluated(metric(), samples, 2)


def test_masks_raise():
    sample = dict(
        gt_sem_seg=dict(data=torch.zeros(1, 2, 2)),
        pred_sem_seg=dict(data=torch.zeros(1, 2, 2)),
        seg_logits=dict(data=torch.zeros(2, 2, 2)),
    )
    with pytest.raises(ValueError, match='Use ClinicalSegmentation'):
        ClinicalClassification().process(None, [sample])


def test_no_images():
    assert ClinicalClassification().compute_metrics([]) == {}


def test_tables_of_many_classes_have_no_scores():
    sample = dict(
        id='a', group='g', gt_label=torch.tensor([3]), pred_label=torch.tensor([3]),
        pred_score=torch.full((101,), 1 / 101),
    )  # fmt: skip
    table = CaseTable()
    table.process(None, [sample])
    table.evaluate(1)
    assert list(table.table) == ['member', 'id', 'group', 'truth', 'pred']
