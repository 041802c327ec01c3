import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement
from mmpretrain.structures import DataSample
from torchmetrics.functional.classification import (
    multiclass_confusion_matrix,
    multiclass_precision,
    multiclass_recall,
    multiclass_specificity,
)

from mmkdml.evaluation import ConfusionMatrix, MacroPrecisionRecall
from mmkdml.registry import METRICS

CLASSES = ('nevus', 'melanoma', 'other', 'absent')


def classified(label):
    scores = torch.full((4,), 0.1)
    scores[label] = 0.7
    return DataSample().set_pred_score(scores).set_pred_label(label)


def drawn(count=60):
    """The last class is absent; ``student_1`` predicts it, and never the third class."""
    rng = np.random.default_rng(0)
    truth = rng.integers(3, size=count)
    labels = {
        'student_1': rng.choice([0, 1, 3], size=count),
        'student_2': np.where(rng.random(count) < 0.7, truth, 0),
        'ensemble': rng.integers(3, size=count),
    }
    samples = []
    for index in range(count):
        sample = classified(int(labels['ensemble'][index])).set_gt_label(int(truth[index]))
        sample.members = BaseDataElement(
            **{n: classified(int(own[index])) for n, own in labels.items() if n != 'ensemble'}
        )
        samples.append(sample)
    return samples, truth, labels


def test_matrices_and_values_equal_torchmetrics(run):
    samples, truth, labels = drawn()
    metric = METRICS.build(dict(type='ConfusionMatrix'))
    values = run(metric, samples, dict(classes=CLASSES))
    assert len(values) == 3 * 3 * 4
    undefined = 0
    for name, own in labels.items():
        pair = torch.as_tensor(own), torch.as_tensor(truth)
        matrix = multiclass_confusion_matrix(*pair, 4)
        np.testing.assert_array_equal(metric.matrices[name], matrix)
        for key, oracle in dict(
            sensitivity=multiclass_recall,
            precision=multiclass_precision,
            specificity=multiclass_specificity,
        ).items():
            got = np.array([values[f'{name}/per_class/{key}_{one}'] for one in CLASSES])
            expected = 100 * oracle(*pair, 4, average=None).numpy()
            known = ~np.isnan(got)  # torchmetrics returns 0 where nothing is counted
            assert got[known] == pytest.approx(expected[known])
            assert not expected[~known].any()
            undefined += int((~known).sum())
    assert undefined == 6  # sensitivity of the absent class, precision of what is never predicted
    assert np.isnan(values['student_2/per_class/sensitivity_absent'])
    assert np.isnan(values['student_1/per_class/precision_other'])
    table = metric.table.set_index(['member', 'truth', 'predicted'])['count']
    assert table['student_2', 'melanoma', 'nevus'] == metric.matrices['student_2'][1, 0]
    assert table['ensemble'].sum() == 60


@pytest.mark.parametrize('name', ['student_1', 'student_2', 'ensemble'])
def test_macro_means_are_those_of_macro_precision_recall(run, name):
    samples, _, labels = drawn()
    values = run(ConfusionMatrix(), samples)
    views = [sample if name == 'ensemble' else sample.members.get(name) for sample in samples]
    for view, sample in zip(views, samples, strict=True):
        view.set_gt_label(sample.gt_label)
    macro = run(MacroPrecisionRecall(), [view.to_dict() for view in views])
    occurring = 4 if name == 'student_1' else 3
    for key, mean in (
        ('sensitivity', macro['single-label/recall']),
        ('precision', macro['single-label/precision']),
    ):
        each = [values[f'{name}/per_class/{key}_{k}'] for k in range(4)]
        assert np.nan_to_num(each).sum() / occurring == pytest.approx(mean)


def test_two_classes_by_hand(run):
    # Positives: 3 of 4 found; negatives: 1 of 2.
    pairs = [(1, 1), (1, 1), (1, 1), (1, 0), (0, 0), (0, 1)]
    samples = [
        DataSample().set_pred_score(torch.eye(2)[pred]).set_pred_label(pred).set_gt_label(truth)
        for truth, pred in pairs
    ]
    values = run(ConfusionMatrix(), samples)
    assert values['model/per_class/sensitivity_1'] == values['model/per_class/specificity_0'] == 75
    assert values['model/per_class/specificity_1'] == values['model/per_class/sensitivity_0'] == 50
    assert values['model/per_class/precision_1'] == 75


def test_several_labels_per_image_raise(run):
    sample = classified(0).set_gt_label([0, 1])
    with pytest.raises(ValueError, match=r'one class per image, got \[0, 1\].*multi_label=True'):
        run(ConfusionMatrix(), [sample])
    assert ConfusionMatrix().compute_metrics([]) == {}
