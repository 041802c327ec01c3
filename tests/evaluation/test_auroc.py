import math

import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample

from mmkdml.evaluation import MemberMetrics, MultiLabelAUROC
from mmkdml.metric_info import metric_info

CLASSES = ('Effusion', 'Mass', 'Hernia', 'Edema')


def samples(scores, truth, mark=True):
    built = []
    for score, hot in zip(scores, truth, strict=True):
        sample = DataSample().set_pred_score(score).set_pred_label(np.flatnonzero(score >= 0.5))
        built.append(sample.set_gt_label(np.flatnonzero(hot)))
        if mark:
            sample.set_metainfo(dict(multi_label=True))
    return built


def test_equals_the_share_of_ordered_pairs(run):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, (40, 4)) / 5  # with ties, which count half
    truth = rng.integers(0, 2, (40, 4))
    truth[:, 2], truth[:, 3] = 0, 1  # without images of one kind
    values = run(MemberMetrics(MultiLabelAUROC()), samples(scores, truth), dict(classes=CLASSES))
    expected = []
    for k in range(2):
        positive, negative = (scores[truth[:, k] == one, k] for one in (1, 0))
        difference = positive[:, None] - negative
        expected.append(100 * ((difference > 0).mean() + (difference == 0).mean() / 2))
        assert values[f'model/per_class/AUROC_{CLASSES[k]}'] == pytest.approx(expected[k], rel=1e-5)
    assert all(math.isnan(values[f'model/per_class/AUROC_{name}']) for name in CLASSES[2:])
    assert values['model/multi-label/AUROC'] == pytest.approx(np.mean(expected), rel=1e-5)


def test_undefined_without_both_kinds_of_images(run):
    values = run(MultiLabelAUROC(), samples(torch.rand(3, 2).numpy(), np.ones((3, 2))))
    assert math.isnan(values['multi-label/AUROC'])
    assert set(values) == {'multi-label/AUROC', 'per_class/AUROC_0', 'per_class/AUROC_1'}


def test_one_class_per_image_raises(run):
    sample = samples(np.array([[0.9, 0.1]]), [[1, 0]], mark=False)
    with pytest.raises(ValueError, match='MultiLabelAUROC .*several classes.*multi_label=True'):
        run(MultiLabelAUROC(), sample)
    assert run(MultiLabelAUROC(), sample, dict(multi_label=True, classes=('a', 'b')))


def test_readable_name():
    assert metric_info('ensemble/multi-label/AUROC').label == 'Area under the ROC curve (%)'
    assert metric_info('ensemble/per_class/AUROC_Mass').title == 'AUROC of Mass'
