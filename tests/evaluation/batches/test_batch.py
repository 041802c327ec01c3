import gc
import math
import weakref

import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample

from mmkdml.evaluation import (
    Calibration,
    ConfusionMatrix,
    Diversity,
    Fidelity,
    ForegroundIoU,
    MemberMetrics,
)
from mmkdml.evaluation.batches import batch as module
from mmkdml.evaluation.batches import batches_of
from mmkdml.evaluation.batches.batch import stacked_labels
from mmkdml.evaluation.predictions import predictions_by_name, truth_of

MEMBERS = ('teacher', 'student_1', 'student_2')
META = dict(classes=('background', 'tumour', 'oedema'))


def predicted(scores, one_logit):
    labels = (scores > 0.5).float() if one_logit else scores.argmax(0, keepdim=True)
    return SegDataSample(seg_logits=PixelData(data=scores), pred_sem_seg=PixelData(data=labels))


def classroom(classes=3, count=5, sizes=((12, 10), (8, 9)), scale=3, dtype=torch.float32):
    """Return samples of two sizes, whose ensemble is the maximum of the students."""
    rng = torch.Generator().manual_seed(classes)
    samples = []
    for index in range(count):
        size = sizes[index // 3 % len(sizes)]
        logits = {
            name: (scale * torch.randn(classes, *size, generator=rng)).to(dtype) for name in MEMBERS
        }
        scores = {
            name: one.sigmoid() if classes == 1 else one.softmax(0) for name, one in logits.items()
        }
        sample = predicted(scores['student_1'].maximum(scores['student_2']), classes == 1)
        own = scores if classes == 1 else logits
        sample.members = BaseDataElement(
            **{name: predicted(one, classes == 1) for name, one in own.items()}
        )
        truth = torch.randint(max(2, classes), (1, *size), generator=rng)
        truth[:, 0, :2] = 255
        sample.gt_sem_seg = PixelData(data=truth)
        sample.set_metainfo(dict(group=f'p{index % 2}'))
        samples.append(sample)
    return samples


def metrics():
    return [
        MemberMetrics(ForegroundIoU(per_case='group')), Fidelity(), Diversity(),
        Calibration(margin=2), ConfusionMatrix(),
    ]  # fmt: skip


def evaluated(samples, size, classes=3):
    evaluator = Evaluator(metrics())
    evaluator.dataset_meta = dict(classes=META['classes'][: max(2, classes)])
    for start in range(0, len(samples), size):
        evaluator.process(samples[start : start + size], None)
    return evaluator.evaluate(len(samples))


@pytest.mark.parametrize('classes', [1, 2, 3])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_predictions_equal_those_of_each_sample(classes, dtype):
    samples = classroom(classes, dtype=dtype)
    batches = list(batches_of(samples))
    assert [(len(one), one.size) for one in batches] == [(3, (12, 10)), (2, (8, 9))]
    index = 0
    for batch in batches:
        for place in range(len(batch)):
            assert batch.truth()[place].tolist() == truth_of(samples[index]).tolist()
            for name, own in predictions_by_name(samples[index]).items():
                assert batch.labels(name)[place].tolist() == own.labels.tolist()
                scores = batch.probabilities(name)[place]
                assert batch.number_of_classes(name) == own.probabilities.shape[1]
                assert scores.dtype == torch.promote_types(dtype, torch.float32)
                if classes == 1:
                    scores = torch.cat([1 - scores, scores])
                torch.testing.assert_close(scores.mT.double(), own.probabilities, atol=1e-6, rtol=0)
            index += 1


def test_each_map_is_converted_once_per_batch(monkeypatch):
    """All metrics together need one conversion of each member and batch of one size."""
    converted = []
    convert = module.class_probabilities
    monkeypatch.setattr(
        module, 'class_probabilities', lambda *args: (converted.append(1), convert(*args))[1]
    )
    evaluated(classroom(), size=3)
    assert len(converted) == 2 * (len(MEMBERS) + 1)


@pytest.mark.parametrize('classes', [1, 2, 3])
def test_batch_size_and_order_change_only_roundings_of_float32(classes):
    samples = classroom(classes)
    values = evaluated(samples, 1, classes)
    for size in (2, 5):
        assert evaluated(samples, size, classes) == pytest.approx(values, rel=1e-8, nan_ok=True)
    assert evaluated(samples[::-1], 5, classes) == pytest.approx(values, rel=1e-8, nan_ok=True)


@pytest.mark.parametrize('classes', [1, 2, 3])
@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_logits_that_are_no_numbers_are_never_hidden(classes, value):
    samples = classroom(classes)
    samples[0].members.student_1.seg_logits.data[-1, 5, 5] = math.nan if classes == 1 else value
    values = evaluated(samples, 5, classes)
    for name in ('student_1', 'student_2'):
        found = values[f'{name}/calibration/ECE'], values[f'{name}/fidelity/KL']
        assert np.isnan(found).tolist() == 2 * [name == 'student_1']


def calibration_error(confidence, right):
    """Expected calibration error of 15 bins in float64."""
    places = np.minimum(np.floor(confidence * 15), 14)
    gaps = [abs((right - confidence)[places == one].sum()) for one in range(15)]
    return sum(gaps) / len(confidence)


@pytest.mark.parametrize('classes', [1, 2, 3])
def test_values_equal_closed_forms_in_float64(classes):
    samples = classroom(classes, count=6, scale=6)
    values = evaluated(samples, 6, classes)
    sides = {name: [] for name in (*MEMBERS, 'ensemble')}
    for sample, name in ((sample, name) for sample in samples for name in sides):
        own = sample if name == 'ensemble' else sample.members.get(name)
        scores = own.seg_logits.data.flatten(1).double().numpy()
        if classes == 1:
            scores = np.stack([1 - scores[0], scores[0]])
        elif name != 'ensemble':
            scores = np.exp(scores - scores.max(0))
        sides[name].append((scores / scores.sum(0), own.pred_sem_seg.data.flatten().numpy()))
    truth = np.concatenate([sample.gt_sem_seg.data.flatten().numpy() for sample in samples])
    joined = {
        name: (np.hstack([one for one, _ in own]), np.hstack([one for _, one in own]).astype(int))
        for name, own in sides.items()
    }
    counted = truth != 255
    for name, (scores, labels) in joined.items():
        confidence = scores[labels, np.arange(len(labels))][counted]
        right = (labels == truth)[counted]
        assert values[f'{name}/calibration/ECE'] == pytest.approx(
            calibration_error(confidence, right), abs=1e-6
        )
        own, true = ((one == 1)[counted] for one in (labels, truth))
        overlap = 100 * (own & true).sum() / (own | true).sum()
        key = 'foreground/IoU' if classes < 3 else 'foreground/IoU_tumour'
        assert values[f'{name}/{key}'] == pytest.approx(overlap, abs=1e-6)
        if name != 'teacher':
            p, q = (np.maximum(one, 1e-7) for one in (joined['teacher'][0], scores))
            p, q = p / p.sum(0), q / q.sum(0)
            divergence = (p * np.log(p / q)).sum(0).mean()
            assert values[f'{name}/fidelity/KL'] == pytest.approx(divergence, abs=1e-6)


def test_nothing_outlives_the_samples():
    samples = classroom()
    evaluator = Evaluator(metrics())
    evaluator.dataset_meta = META
    evaluator.process(samples, None)
    converted = [weakref.ref(entry.result) for entry in module._of_maps.entries.values()]
    assert len(converted) >= len(MEMBERS) + 1
    gc.disable()
    try:
        del samples
        assert [one() for one in converted] == [None] * len(converted)
        assert not stacked_labels.entries
    finally:
        gc.enable()


def test_labels_above_255_are_long():
    assert stacked_labels([torch.tensor([[3.0, 255.0]])]).dtype == torch.uint8
    labels = stacked_labels([torch.tensor([[3, 256]]), torch.tensor([[1, 2]])])
    assert (labels.dtype, labels.tolist()) == (torch.long, [[3, 256], [1, 2]])
