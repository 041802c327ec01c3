import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmkdml.evaluation import ForegroundIoU, MemberMetrics
from mmkdml.evaluation.calibration import Calibration
from mmkdml.evaluation.diversity import Diversity
from mmkdml.evaluation.fidelity import Fidelity
from mmkdml.evaluation.predictions import predictions_by_name, sum_by_name, truth_of
from mmkdml.registry import MODELS

CONFIG = Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py'

LOGITS = torch.tensor([[[0.0, 2.0]], [[1.0, 0.0]], [[0.5, 0.0]]])  # (K, H, W) = (3, 1, 2)


def mask(scores, labels, **fields):
    return SegDataSample(
        seg_logits=PixelData(data=scores), pred_sem_seg=PixelData(data=torch.tensor([labels])),
        **fields,
    )  # fmt: skip


def with_members(sample, **members):
    sample.members = BaseDataElement(**members)
    return sample


def test_classification_scores_are_probabilities():
    sample = DataSample().set_pred_score(torch.tensor([0.25, 0.75])).set_pred_label(1)
    for one in (sample, sample.to_dict()):
        (predictions,) = predictions_by_name(one).values()
        assert predictions.labels.tolist() == [1]
        assert predictions.probabilities.tolist() == [[0.25, 0.75]]
        assert predictions.probabilities.dtype == torch.float64
        assert not predictions.of_pixels


def test_one_logit_becomes_two_classes():
    predictions = predictions_by_name(mask(torch.tensor([[[0.25, 0.75]]]), [[0, 1]]))['model']
    assert predictions.labels.tolist() == [0, 1]
    assert predictions.probabilities.tolist() == [[0.75, 0.25], [0.25, 0.75]]
    assert predictions.of_pixels


def test_members_have_logits_and_the_ensemble_probabilities():
    ensemble = torch.tensor([[[0.5, 0.6]], [[0.3, 0.6]], [[0.2, 0.8]]])
    before = ensemble.clone()
    sample = with_members(mask(ensemble, [[0, 2]]), student_1=mask(LOGITS, [[1, 0]]))
    predictions = predictions_by_name(sample)
    assert list(predictions) == ['student_1', 'ensemble']
    expected = torch.tensor([[0.0, 1.0, 0.5], [2.0, 0.0, 0.0]]).exp()
    expected = expected / torch.stack([expected[0].sum(), expected[1].sum()])[:, None]
    torch.testing.assert_close(predictions['student_1'].probabilities.float(), expected)
    # 0.6 + 0.6 + 0.8 = 2
    torch.testing.assert_close(
        predictions['ensemble'].probabilities.float(),
        torch.tensor([[0.5, 0.3, 0.2], [0.3, 0.3, 0.4]]),
    )
    assert torch.equal(sample.seg_logits.data, before)


def test_truth_of_both_tasks():
    sample = DataSample().set_pred_score(torch.tensor([0.2, 0.8])).set_pred_label(1).set_gt_label(0)
    assert truth_of(with_members(sample, student_1=DataSample())).tolist() == [0]
    truth = PixelData(data=torch.tensor([[[1, 255]]], dtype=torch.uint8))
    assert truth_of(mask(LOGITS, [[1, 0]], gt_sem_seg=truth)).tolist() == [1, 255]


def test_missing_fields_raise():
    with pytest.raises(ValueError, match=r'expected the truth.*pred_sem_seg.*Load annotations'):
        truth_of(mask(LOGITS, [[1, 0]]))
    sample = with_members(mask(LOGITS, [[1, 0]]), student_1=SegDataSample())
    with pytest.raises(
        ValueError, match=r'or pred_label and pred_score, .* got \[\] for student_1'
    ):
        predictions_by_name(sample)


def test_sums_by_name():
    assert sum_by_name([dict(a=1, b=2), {}, dict(a=3)]) == dict(a=4, b=2)
    assert sum_by_name([]) == {}


def test_all_metrics_accept_predictions_of_a_classroom():
    torch.manual_seed(0)
    config = Config.fromfile(CONFIG).model
    config.input_size = (32, 32)
    model = MODELS.build(config).eval()
    samples = model.task.dummy_samples(4, (32, 32))
    images = [torch.randint(256, (3, 32, 32), dtype=torch.uint8) for _ in samples]
    evaluator = Evaluator(
        [dict(type=MemberMetrics, metric=ForegroundIoU()), Fidelity(), Diversity(), Calibration()]
    )
    evaluator.dataset_meta = dict(classes=('background', 'tumour'))
    with torch.no_grad():
        samples = model.test_step(dict(inputs=images, data_samples=samples))
    evaluator.process(samples, None)
    values = evaluator.evaluate(4)
    students = ('student_1', 'student_2', 'ensemble')
    assert list(values) == [
        *(f'{name}/foreground/{key}' for name in ('teacher', *students) for key in ('IoU', 'F1')),
        *(
            f'{name}/fidelity/{key}'
            for name in students
            for key in ('IoU', 'F1', 'agreement', 'KL')
        ),
        'students/diversity/disagreement',
        'students/diversity/error_correlation',
        *(
            f'{name}/calibration/{key}'
            for name in ('teacher', *students)
            for key in ('ECE', 'ECE_near_foreground')
        ),
    ]
    assert all(math.isfinite(value) for value in values.values())
    # The ensemble is the union of both masks.
    predictions = predictions_by_name(samples[0])
    union = predictions['student_1'].labels | predictions['student_2'].labels
    assert torch.equal(predictions['ensemble'].labels, union)
    for own in predictions.values():
        assert torch.equal(own.probabilities.argmax(dim=1), own.labels)
