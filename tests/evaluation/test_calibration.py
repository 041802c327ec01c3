import math

import numpy as np
import pandas as pd
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from mmkdml.evaluation.calibration import BOXES, Calibration, near_foreground
from mmkdml.evaluation.reliability import draw_reliability
from mmkdml.registry import METRICS


def classified(scores):
    scores = torch.as_tensor(scores)
    return DataSample().set_pred_score(scores).set_pred_label(scores.argmax().reshape(1))


def segmented(logits):
    return SegDataSample(
        seg_logits=PixelData(data=logits), pred_sem_seg=PixelData(data=logits.argmax(0)[None])
    )


def drawn(count=80, classes=4, seed=0):
    rng = torch.Generator().manual_seed(seed)
    scores = {
        name: torch.randn(count, classes, generator=rng).mul(2).softmax(1)
        for name in ('student_1', 'student_2', 'ensemble')
    }
    truth = torch.randint(classes, (count,), generator=rng)
    samples = []
    for index in range(count):
        sample = classified(scores['ensemble'][index]).set_gt_label(int(truth[index]))
        sample.members = BaseDataElement(
            **{name: classified(own[index]) for name, own in scores.items() if name != 'ensemble'}
        )
        samples.append(sample)
    return samples, scores, truth


@pytest.mark.parametrize('bins', [1, 7, 15])
def test_equals_torchmetrics(run, bins):
    samples, scores, truth = drawn()
    values = run(METRICS.build(dict(type=Calibration, bins=bins)), samples)
    assert values == {
        f'{name}/calibration/ECE': pytest.approx(
            multiclass_calibration_error(own, truth, own.shape[1], bins).item(), rel=1e-5
        )
        for name, own in scores.items()
    }
    assert len(set(values.values())) == 3


def test_masks_without_ignored_pixels(run):
    rng = torch.Generator().manual_seed(0)
    logits = [torch.randn(3, 6, 7, generator=rng) for _ in range(3)]
    truths = [torch.randint(3, (1, 6, 7), generator=rng) for _ in range(3)]
    truths[1][0, 2:] = 255
    samples = [segmented(own) for own in logits]
    for sample, truth in zip(samples, truths, strict=True):
        sample.gt_sem_seg = PixelData(data=truth)
    flat = torch.cat([own.flatten(1).mT for own in logits]).softmax(1)
    expected = multiclass_calibration_error(
        flat, torch.cat([truth.flatten() for truth in truths]), 3, 15, ignore_index=255
    )
    values = run(Calibration(), samples)
    assert values['model/calibration/ECE'] == pytest.approx(expected.item(), rel=1e-5)


def neighborhood_by_hand(truth, margin):
    """Each pixel is compared with each foreground pixel."""
    rows, columns = np.indices(truth.shape)
    near = np.zeros(truth.shape, bool)
    for row, column in np.argwhere((truth != 0) & (truth != 255)):
        near |= np.maximum(abs(rows - row), abs(columns - column)) <= margin
    return near


@pytest.mark.parametrize('margin', [0, 1, 3, 7, 10, 20])
def test_neighborhood_of_the_foreground(margin):
    truth = torch.zeros(9, 40, dtype=torch.long)
    truth[0, 0], truth[5, 30:32], truth[8, 2] = 2, 1, 255
    near = near_foreground(truth, margin)
    np.testing.assert_array_equal(near.numpy(), neighborhood_by_hand(truth.numpy(), margin))


def test_region_near_the_foreground_equals_torchmetrics(run):
    rng = torch.Generator().manual_seed(0)
    names = ('teacher', 'student_1', 'ensemble')
    truths = torch.zeros(3, 1, 16, 17, dtype=torch.long)  # the last image has no foreground
    truths[0, 0, 3:5, 2:4], truths[1, 0, 12:, 16], truths[0, 0, 4, 5] = 1, 2, 255
    logits = {name: torch.randn(3, 3, 16, 17, generator=rng).mul(2) for name in names}
    logits['ensemble'] = logits['ensemble'].softmax(1)  # scores of an ensemble are probabilities
    samples = []
    for index, truth in enumerate(truths):
        sample = segmented(logits['ensemble'][index])
        sample.gt_sem_seg = PixelData(data=truth)
        sample.members = BaseDataElement(**{n: segmented(logits[n][index]) for n in names[:-1]})
        samples.append(sample)
    near = np.stack([neighborhood_by_hand(truth[0].numpy(), 2) for truth in truths])
    metric = Calibration(margin=2)
    values = run(metric, samples)
    for name in names:
        scores = logits[name] if name == 'ensemble' else logits[name].softmax(1)
        expected = multiclass_calibration_error(
            scores.movedim(1, -1)[near], truths[:, 0][near], 3, 15, ignore_index=255
        )
        assert values[f'{name}/calibration/ECE_near_foreground'] == pytest.approx(
            expected.item(), rel=1e-5
        )
    counts = metric.table.groupby(['region', 'member'], sort=False)['count'].sum()
    assert counts.to_dict() == {
        (region, name): number
        for region, number in (('all', truths.numel() - 1), ('near foreground', near.sum() - 1))
        for name in names
    }


def test_table_by_hand(run):
    # Confidence 0.7: correct once in four; confidence 1: correct.
    samples = [classified([0.3, 0.7]).set_gt_label(label) for label in (1, 0, 0, 0)]
    samples.append(classified([1.0, 0.0]).set_gt_label(0))
    metric = Calibration(bins=4)
    values = run(metric, samples)
    assert values == {'model/calibration/ECE': pytest.approx(4 / 5 * 0.45)}
    expected = pd.DataFrame(
        dict(
            region='all',
            member='model',
            low=[0, 0.25, 0.5, 0.75],
            high=[0.25, 0.5, 0.75, 1],
            count=[0, 0, 4, 1],
            confidence=[np.nan, np.nan, 0.7, 1],
            accuracy=[np.nan, np.nan, 0.25, 1],
        )
    )
    pd.testing.assert_frame_equal(metric.table, expected, check_dtype=False)


def test_confidence_of_the_predicted_class(run):
    # A union may predict a class that is not the most probable.
    sample = SegDataSample(
        seg_logits=PixelData(data=torch.tensor([[[0.4]]])),
        pred_sem_seg=PixelData(data=torch.tensor([[[1]]])),
        gt_sem_seg=PixelData(data=torch.tensor([[[1]]])),
    )
    assert run(Calibration(), [sample]) == {
        'model/calibration/ECE': pytest.approx(0.6),
        'model/calibration/ECE_near_foreground': pytest.approx(0.6),
    }


def test_no_counted_pixels_give_nan(run):
    sample = segmented(torch.zeros(3, 2, 2))
    sample.gt_sem_seg = PixelData(data=torch.full((1, 2, 2), 255))
    metric = Calibration()
    assert all(map(math.isnan, run(metric, [sample]).values()))
    assert metric.table['count'].tolist() == [0] * 30
    assert Calibration().compute_metrics([]) == {}


def test_invalid_inputs_raise(run):
    with pytest.raises(ValueError, match='bins: expected at least 1, got 0'):
        Calibration(bins=0)
    with pytest.raises(ValueError, match='margin: expected at least 0 pixels, got -1'):
        Calibration(margin=-1)
    sample = segmented(torch.zeros(3, 2, 2))
    with pytest.raises(ValueError, match='expected the truth'):
        run(Calibration(), [sample])
    sample.gt_sem_seg = PixelData(data=torch.zeros(1, 3, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"the size of the truth, 9, got \{'model': 4"):
        run(Calibration(), [sample])


def test_boxes_equal_torchmetrics(run, boxes, tmp_path):
    rng = np.random.default_rng(0)
    samples, scores, right = [], [], []
    for img_id in range(20):
        number = int(rng.integers(0, 6))
        own, hits = rng.uniform(0, 1, number).astype(np.float32), rng.random(number) < 0.5
        places = [[20 * place, 0, 20 * place + 10, 10] for place in range(number)]
        # The boxes do not overlap: those without a true box of their class are wrong.
        truth = places, np.where(hits, 0, 1)
        samples.append(boxes.classroom(img_id, truth, ensemble=(places, [0] * number, own)))
        scores, right = [*scores, *own], [*right, *hits]
    scores, right = np.array(scores), np.array(right)
    for threshold in (0, 0.3):
        metric = Calibration(score_threshold=threshold)
        values = run(metric, samples, boxes.META)
        kept = scores >= threshold
        expected = binary_calibration_error(
            torch.from_numpy(scores[kept]), torch.from_numpy(right[kept]).int(), n_bins=15
        )
        assert values == {'model/calibration/D-ECE': pytest.approx(expected.item(), rel=1e-5)}
        assert metric.table['count'].sum() == kept.sum()
        assert set(metric.table['region']) == {BOXES}
    draw_reliability(metric.table, tmp_path / 'boxes.png')


def test_ignored_boxes_are_neither_right_nor_wrong(run, boxes, tmp_path):
    box = [[10, 10, 60, 60]]
    sample = boxes.classroom(0, ([], []), ignored=(box, [0]), teacher=(box, [0], [0.9]))
    metric = Calibration()
    values = run(metric, [sample], boxes.META)
    assert list(values) == ['teacher/calibration/D-ECE', 'ensemble/calibration/D-ECE']
    assert all(map(math.isnan, values.values()))
    draw_reliability(metric.table, tmp_path / 'empty.png')
    with pytest.raises(ValueError, match='score_threshold: expected a value .* got 2'):
        Calibration(score_threshold=2)
