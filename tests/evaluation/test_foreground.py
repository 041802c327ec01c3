import copy
import logging
import math

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmseg.evaluation import IoUMetric

from mmkdml.evaluation import ForegroundIoU
from mmkdml.registry import METRICS

TWO = ('background', 'tumour')
THREE = ('background', 'tumour', 'oedema')


def sample(pred, truth, **metainfo):
    """Return a sample as passed on by the evaluator; masks are rows of digits, 9 is ignored."""

    def labels(rows):
        data = torch.tensor([[[int(c) for c in row] for row in rows.split()]])
        return dict(data=data.masked_fill(data == 9, 255))

    return dict(pred_sem_seg=labels(pred), gt_sem_seg=labels(truth), **metainfo)


def score(samples, classes=TWO, **arguments):
    metric = ForegroundIoU(**arguments)
    metric.dataset_meta = dict(classes=classes)
    metric.process(None, samples)
    return metric.evaluate(len(samples))


@pytest.fixture
def warned():
    messages, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    yield messages
    logger.removeHandler(handler)


def random_samples(classes, count=6, ignored=True):
    rng = torch.Generator().manual_seed(3)
    samples = []
    for index in range(count):
        pred, truth = torch.randint(classes, (2, 1, 9, 11), generator=rng)
        if ignored:
            truth[torch.rand(truth.shape, generator=rng) < 0.2] = 255
        samples.append(
            dict(pred_sem_seg=dict(data=pred), gt_sem_seg=dict(data=truth), group=f'p{index % 3}')
        )
    return samples


def brute_force(samples, label):
    """Compute IoU and F1 of one class pixel by pixel."""
    tp = fp = fn = 0
    for one in samples:
        pairs = zip(
            one['pred_sem_seg']['data'].flatten().tolist(),
            one['gt_sem_seg']['data'].flatten().tolist(),
            strict=True,
        )
        for pred, truth in pairs:
            if truth != 255:
                tp += pred == label == truth
                fp += pred == label != truth
                fn += truth == label != pred
    return 100 * tp / (tp + fp + fn), 200 * tp / (2 * tp + fp + fn)


def test_by_hand():
    # TP 2, FP 1, FN 1 in total; the mean over both images would differ.
    samples = [sample('110 000', '110 001'), sample('100 000', '000 000')]
    assert score(samples) == pytest.approx({'foreground/IoU': 50.0, 'foreground/F1': 200 / 3})


def test_ignored_pixels_are_not_counted():
    # One of two wrong pixels is ignored.
    assert score([sample('1111', '1190')])['foreground/IoU'] == pytest.approx(200 / 3)
    assert score([sample('1110', '1190')])['foreground/IoU'] == 100.0


def test_ignore_index_can_be_set():
    assert score([sample('11', '13')], ignore_index=3)['foreground/IoU'] == 100.0


@pytest.mark.parametrize('ignored', [False, True])
def test_one_foreground_class_against_brute_force_and_mmseg(ignored):
    samples = random_samples(2, ignored=ignored)
    values = score(samples)
    assert (values['foreground/IoU'], values['foreground/F1']) == pytest.approx(
        brute_force(samples, 1)
    )
    areas = [
        sum(areas)
        for areas in zip(
            *(
                IoUMetric.intersect_and_union(
                    s['pred_sem_seg']['data'][0], s['gt_sem_seg']['data'][0], 2, 255
                )
                for s in samples
            ),
            strict=True,
        )
    ]
    mmseg = IoUMetric.total_area_to_metrics(*areas, metrics=['mIoU', 'mDice'])
    assert values['foreground/IoU'] == pytest.approx(100 * mmseg['IoU'][1], rel=1e-6)
    assert values['foreground/F1'] == pytest.approx(100 * mmseg['Dice'][1], rel=1e-6)


def test_several_foreground_classes_against_brute_force():
    samples = random_samples(3)
    (iou_1, f1_1), (iou_2, f1_2) = brute_force(samples, 1), brute_force(samples, 2)
    assert score(samples, THREE) == pytest.approx(
        {
            'foreground/IoU': (iou_1 + iou_2) / 2,
            'foreground/F1': (f1_1 + f1_2) / 2,
            'foreground/IoU_tumour': iou_1,
            'foreground/IoU_oedema': iou_2,
            'foreground/F1_tumour': f1_1,
            'foreground/F1_oedema': f1_2,
        }
    )


def test_cases_pool_their_counts_before_dividing():
    samples = random_samples(2)
    values = score(samples, per_case='group')
    pairs = [brute_force([s for s in samples if s['group'] == f'p{i}'], 1) for i in range(3)]
    assert values['foreground/case_IoU'] == pytest.approx(sum(iou for iou, _ in pairs) / 3)
    assert values['foreground/case_F1'] == pytest.approx(sum(f1 for _, f1 in pairs) / 3)
    assert values['foreground/IoU'] == score(samples)['foreground/IoU']


def test_classes_are_averaged_over_cases_first():
    samples = [sample('12', '12', group='a'), sample('10', '11', group='b')]
    # Tumour: 100 and 50. Oedema: 100, and absent in b.
    assert score(samples, THREE, per_case='group')['foreground/case_IoU'] == (75 + 100) / 2
    perfect = score(samples, THREE, per_case='group', empty='perfect')
    assert perfect['foreground/case_IoU'] == (75 + 100) / 2


@pytest.mark.parametrize(('empty', 'expected'), [('skip', 100 / 3), ('perfect', 50.0)])
def test_cases_without_foreground(empty, expected):
    samples = [
        sample('11', '11', group='found'),
        sample('10', '00', group='false alarm'),
        sample('00', '01', group='missed'),
        sample('00', '00', group='nothing there'),
    ]
    values = score(samples, per_case='group', empty=empty)
    assert values['foreground/case_IoU'] == values['foreground/case_F1'] == pytest.approx(expected)
    assert values['foreground/IoU'] == 50.0  # TP 2, FP 1, FN 1


def test_absent_class_is_nan_and_logged(warned):
    values = score([sample('10', '11')], THREE)
    assert math.isnan(values['foreground/IoU_oedema'])
    assert values['foreground/IoU'] == values['foreground/IoU_tumour'] == 50.0
    assert len(warned) == 1
    assert "No pixel of ['oedema'] in truth or prediction" in warned[0]
    assert 'foreground/IoU' in warned[0]


def test_no_foreground_is_nan(warned):
    values = score([sample('00', '09', group='a')], per_case='group')
    assert list(values) == [
        'foreground/IoU',
        'foreground/F1',
        'foreground/case_IoU',
        'foreground/case_F1',
    ]
    assert all(math.isnan(value) for value in values.values())
    assert "['tumour']" in warned[0]


def test_no_samples_are_nan(warned):
    assert all(math.isnan(value) for value in score([], per_case='group').values())


def test_fully_ignored_image_is_not_counted():
    assert score([sample('11', '99'), sample('10', '11')])['foreground/IoU'] == 50.0


def test_counts_are_exact_beyond_float32():
    metric = ForegroundIoU()
    metric.dataset_meta = dict(classes=TWO)
    counts = np.float32([[[2**22], [0], [0]]] * 4 + [[[0], [1], [0]]])  # TP 2^24, FP 1
    values = metric.compute_metrics([(None, one) for one in counts])
    assert values['IoU'] == 100 * 2**24 / (2**24 + 1)


def test_inputs_are_not_changed():
    samples = random_samples(2)
    before = copy.deepcopy(samples)
    score(samples, per_case='group')
    for one in [*samples, *before]:
        del one['group']
    torch.testing.assert_close(samples, before, rtol=0, atol=0)


def test_built_from_registry_with_prefix():
    metric = METRICS.build(dict(type='mmkdml.ForegroundIoU', prefix='lesion'))
    metric.dataset_meta = dict(classes=TWO)
    metric.process(None, [sample('1', '1')])
    assert metric.evaluate(1) == {'lesion/IoU': 100.0, 'lesion/F1': 100.0}


def test_unknown_empty_policy_raises():
    with pytest.raises(ValueError, match="empty: expected one of skip, perfect, got 'zero'"):
        ForegroundIoU(empty='zero')


@pytest.mark.parametrize('meta', [None, {}, dict(classes=('tumour',))])
def test_missing_foreground_classes_raise(meta):
    metric = ForegroundIoU()
    metric.dataset_meta = meta
    with pytest.raises(ValueError, match="'classes' .* background .* foreground class"):
        metric.process(None, [sample('1', '1')])


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        (
            sample('20', '00', img_path='a.tif'),
            r'in the prediction: expected 0 to 1 \(or 255.* got \[2\] \(a\.tif\)',
        ),
        (sample('00', '02'), r'in the truth: .* got \[2\] \(a sample without img_path\)'),
        (
            sample('000', '00', img_path='a.tif'),
            r'same size, got \(1, 3\) and \(1, 2\) \(a\.tif\).*move Resize before',
        ),
        (
            dict(gt_sem_seg=None, img_path='a.tif'),
            r"expected 'pred_sem_seg' in each sample, got .*\(a\.tif\)",
        ),
        (
            dict(pred_sem_seg=sample('0', '0')['pred_sem_seg']),
            "expected 'gt_sem_seg' in each sample, got",
        ),
    ],
)
def test_invalid_samples_raise(bad, message):
    with pytest.raises(ValueError, match=message):
        score([bad])


def test_sample_without_case_raises():
    with pytest.raises(ValueError, match=r"per_case 'group': expected a metainfo key.*meta_keys"):
        score([sample('0', '0')], per_case='group')
