"""Metrics of images with several classes or none."""

import itertools

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from mmpretrain.evaluation import (
    AveragePrecision,
    MultiLabelMetric,
    VOCAveragePrecision,
    VOCMultiLabelMetric,
)
from mmpretrain.structures import DataSample
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multilabel_average_precision,
    multilabel_f1_score,
    multilabel_precision,
    multilabel_recall,
)

from mmkdml.evaluation import (
    Calibration,
    CaseTable,
    ConfusionMatrix,
    Diversity,
    Fidelity,
    MacroPrecisionRecall,
    MemberMetrics,
)
from mmkdml.evaluation.predictions import predictions_by_name, truth_of

CLASSES = ('Effusion', 'Mass', 'Nodule')
META = dict(classes=CLASSES)
NAMES = ('teacher', 'student_1', 'student_2', 'ensemble')


def scores_and_truth(images=20):
    rng = np.random.default_rng(0)
    scores = {name: rng.random((images, 3)).astype(np.float32) for name in NAMES}
    truth = rng.integers(0, 2, (images, 3))
    truth[0] = 0
    return scores, truth


def predicted(score, threshold=0.5):
    score = torch.as_tensor(score)
    return DataSample().set_pred_score(score).set_pred_label((score >= threshold).nonzero()[:, 0])


def samples(scores, truth, mark=True, label='gt_label'):
    built = []
    for index, hot in enumerate(truth):
        own = predicted(scores['ensemble'][index])
        own.set_metainfo(dict(id=f'case{index}', group=f'g{index % 4}'))
        if label == 'gt_label':
            own.set_gt_label(np.flatnonzero(hot))
        else:
            own.set_gt_score(np.asarray(hot, float))
        if mark:
            own.set_metainfo(dict(multi_label=True))
        members = {name: predicted(own[index]) for name, own in scores.items() if name in NAMES[:3]}
        if members:
            own.members = BaseDataElement(**members)
        built.append(own)
    return built


@pytest.fixture(params=['gt_label', 'gt_score'])
def data(request):
    scores, truth = scores_and_truth()
    return scores, truth, samples(scores, truth, label=request.param)


def test_each_class_is_a_prediction(data):
    scores, truth, built = data
    assert truth_of(built[3]).tolist() == truth[3].tolist()
    assert truth_of(built[0]).tolist() == [0, 0, 0]
    own = predictions_by_name(built[3])['student_1']
    assert own.labels.tolist() == (scores['student_1'][3] >= 0.5).astype(int).tolist()
    present = torch.from_numpy(scores['student_1'][3]).double()
    assert torch.equal(own.probabilities, torch.stack([1 - present, present], 1))
    assert (own.of_classes, own.of_pixels) == (True, False)


def test_a_data_set_marks_the_predictions_of_a_plain_network():
    scores, truth = scores_and_truth()
    (sample,) = samples({'ensemble': scores['ensemble']}, truth[:1], mark=False)
    marked = predictions_by_name(sample, dict(multi_label=True))['model']
    assert marked.of_classes
    with pytest.raises(ValueError, match=r'gt_label: .*got \[\].*multi_label=True'):
        predictions_by_name(sample)


def test_classes_outside_of_the_predictions_raise():
    sample = predicted([0.3, 0.6]).set_gt_label([2])
    sample.set_metainfo(dict(multi_label=True))
    with pytest.raises(ValueError, match=r'gt_label: .*\[0, 2\), got \[2\]'):
        truth_of(sample)
    sample = DataSample().set_gt_score([0.0, 1.0, 1.0])
    sample.set_metainfo(dict(multi_label=True))
    sample.pred_score, sample.pred_label = torch.tensor([0.3, 0.6]), torch.tensor([1])
    with pytest.raises(ValueError, match='the 2 classes of the predictions, got 3'):
        truth_of(sample)


def test_metrics_of_mmpretrain_for_each_member(run, data):
    scores, truth, built = data
    values = run(MemberMetrics([MultiLabelMetric(), AveragePrecision()]), built, META)
    for name in NAMES:
        both = torch.from_numpy(scores[name]), torch.from_numpy(truth)
        for key, expected in {
            'precision': multilabel_precision,
            'recall': multilabel_recall,
            'f1-score': multilabel_f1_score,
            'mAP': multilabel_average_precision,
        }.items():
            found = values[f'{name}/multi-label/{key}']
            assert found == pytest.approx(100 * expected(*both, 3).item(), rel=1e-5)
    assert len(values) == 4 * len(NAMES)


def test_voc_metrics_ignore_difficult_classes_of_each_member(run):
    scores, truth = scores_and_truth()
    built = samples(scores, truth)
    for sample, hot in zip(built, truth, strict=True):
        sample.gt_label_difficult = [] if hot[2] else [2]  # no negatives of the last class
    values = run(MemberMetrics([VOCAveragePrecision(), VOCMultiLabelMetric()]), built, META)
    for name in NAMES:
        both = torch.from_numpy(scores[name][:, :2]), torch.from_numpy(truth[:, :2])
        known = multilabel_average_precision(*both, 2).item()
        expected = 100 * (2 * known + 1) / 3
        assert values[f'{name}/multi-label/mAP'] == pytest.approx(expected, rel=1e-5)
        assert f'{name}/multi-label/precision' in values


def test_calibration_pools_all_classes(run, data):
    scores, truth, built = data
    values = run(Calibration(), built, META)
    for name in NAMES:
        own = torch.from_numpy(scores[name]).flatten().double()
        confidence = torch.where(own >= 0.5, own, 1 - own)
        right = (own >= 0.5) == torch.from_numpy(truth).flatten().bool()
        # torchmetrics' binary error compares a probability with the label.
        expected = binary_calibration_error(confidence, right.long(), n_bins=15)
        assert values[f'{name}/calibration/ECE'] == pytest.approx(expected.item(), rel=1e-5)
    assert len(values) == len(NAMES)


def test_fidelity_and_diversity_count_classes(run, data):
    scores, truth, built = data
    decided = {name: own >= 0.5 for name, own in scores.items()}
    values = run(Fidelity(), built, META)
    p, q = (scores[name].astype(float) for name in ('teacher', 'student_1'))
    divergence = p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))
    assert values['student_1/fidelity/KL'] == pytest.approx(divergence.mean())
    same = decided['student_1'] == decided['teacher']
    assert values['student_1/fidelity/accuracy'] == pytest.approx(100 * same.mean())
    values = run(Diversity(), built, META)
    wrong = [(decided[name] != truth).flatten() for name in ('student_1', 'student_2')]
    prefix = 'students/diversity'
    assert values[f'{prefix}/disagreement'] == pytest.approx(100 * (wrong[0] != wrong[1]).mean())
    assert values[f'{prefix}/error_correlation'] == pytest.approx(np.corrcoef(*wrong)[0, 1])


def test_confusion_of_each_class(run, data):
    scores, truth, built = data
    metric = ConfusionMatrix()
    values = run(metric, built, META)
    for name, (k, label) in itertools.product(NAMES, enumerate(CLASSES)):
        true, pred = truth[:, k] == 1, scores[name][:, k] >= 0.5
        expected = [[(~true & ~pred).sum(), (~true & pred).sum()]]
        expected += [[(true & ~pred).sum(), (true & pred).sum()]]
        assert metric.matrices[f'{name}: {label}'].tolist() == expected
        for key, (part, total) in dict(
            sensitivity=(true & pred, true), specificity=(~true & ~pred, ~true),
            precision=(true & pred, pred),
        ).items():  # fmt: skip
            found = values[f'{name}/per_class/{key}_{label}']
            assert found == pytest.approx(100 * part.sum() / total.sum())
    assert list(metric.main_matrices) == list(CLASSES)
    assert metric.main_matrices['Mass'] is metric.matrices['ensemble: Mass']
    rows = metric.table.set_index(['member', 'truth', 'predicted'])['count']
    cell = rows['teacher: Nodule', 'present', 'absent']
    assert cell == metric.matrices['teacher: Nodule'][1, 0]


def test_case_table_has_a_row_per_class(run, data):
    scores, truth, built = data
    metric = CaseTable()
    run(metric, built, META)
    assert list(metric.table) == ['member', 'id', 'group', 'label', 'truth', 'pred', 'score']
    own = metric.table[metric.table['member'] == 'student_2'].set_index(['id', 'label'])
    assert len(own) == truth.size
    assert len(metric.table) == len(NAMES) * truth.size
    for index, k in np.ndindex(truth.shape):
        row = own.loc[f'case{index}', k]
        assert row['truth'] == truth[index, k]
        assert row['pred'] == (scores['student_2'][index, k] >= 0.5)
        assert row['score'] == pytest.approx(scores['student_2'][index, k])
        assert row['group'] == f'g{index % 4}'


def test_macro_means_of_one_class_per_image_raise(run, data):
    with pytest.raises(ValueError, match='MultiLabelMetric and AveragePrecision'):
        run(MemberMetrics(MacroPrecisionRecall()), data[2], META)
