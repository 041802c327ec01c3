import logging
import math

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample
from scipy.special import log_softmax, softmax

from mmkdml.evaluation import ForegroundIoU
from mmkdml.evaluation.fidelity import Fidelity
from mmkdml.registry import METRICS

META = dict(classes=('background', 'tumour', 'oedema'))
MEMBERS = ('teacher', 'student_1', 'student_2')


def classified(scores):
    scores = torch.tensor(scores)
    return DataSample().set_pred_score(scores).set_pred_label(scores.argmax().reshape(1))


def segmented(logits):
    return SegDataSample(
        seg_logits=PixelData(data=logits), pred_sem_seg=PixelData(data=logits.argmax(0)[None])
    )


def classroom(make, **predictions):
    sample = make(predictions.pop('ensemble'))
    sample.members = BaseDataElement(**{name: make(own) for name, own in predictions.items()})
    return sample


def drawn_masks(count=3, seed=0):
    """Return samples of 5x6 pixels in 3 classes, and their logits by member."""
    rng = torch.Generator().manual_seed(seed)
    logits = [
        {
            **{name: torch.randn(3, 5, 6, generator=rng) for name in MEMBERS},
            'ensemble': torch.rand(3, 5, 6, generator=rng),
        }
        for _ in range(count)
    ]
    return [classroom(segmented, **one) for one in logits], logits


def test_classification_by_hand(run):
    teacher = [0.25, 0.75]
    samples = [
        classroom(
            classified, teacher=teacher, student_1=own, student_2=[0.5, 0.5], ensemble=[1.0, 0.25]
        )
        for own in ([0.25, 0.75], [0.75, 0.25], [0.75, 0.25], [0.75, 0.25])
    ]
    for sample in samples:  # the ground truth is ignored
        sample.set_gt_label(0)
    values = run(dict(type=Fidelity), samples)
    swapped = 0.25 * math.log(1 / 3) + 0.75 * math.log(3)
    half = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    both = 0.25 * math.log(0.25 / 0.8) + 0.75 * math.log(0.75 / 0.2)
    assert values == {
        'student_1/fidelity/accuracy': 25.0,
        'student_1/fidelity/KL': pytest.approx(0.75 * swapped, rel=1e-6),
        'student_2/fidelity/accuracy': 0.0,
        'student_2/fidelity/KL': pytest.approx(half, rel=1e-6),
        'ensemble/fidelity/accuracy': 0.0,
        'ensemble/fidelity/KL': pytest.approx(both, rel=1e-6),
    }


def test_class_that_neither_teacher_nor_student_predicts_is_logged_as_fidelity(run):
    background = torch.tensor([2.0, 1.0, 0.0])[:, None, None].expand(3, 2, 2)
    tumour = torch.tensor([1.0, 2.0, 0.0])[:, None, None].expand(3, 2, 2)
    sample = classroom(
        segmented, teacher=background, student_1=background, student_2=tumour, ensemble=background
    )
    sample.gt_sem_seg = PixelData(data=torch.ones(1, 2, 2, dtype=torch.long))  # not used
    messages, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    values = run(Fidelity(), [sample], META)
    logger.removeHandler(handler)
    assert math.isnan(values['student_1/fidelity/IoU_tumour'])
    assert values['student_2/fidelity/IoU_tumour'] == 0
    assert len(messages) == 2  # one per class
    for message, name, members in (
        (messages[0], 'tumour', 'teacher and student_1, ensemble'),
        (messages[1], 'oedema', 'teacher and student_1, student_2, ensemble'),
    ):
        assert message.startswith('Fidelity')
        for part in (f"'{name}'", members, 'fidelity/IoU'):
            assert part in message


def test_masks_are_scored_against_the_teacher(run):
    samples, logits = drawn_masks()
    values = run(Fidelity(), samples, META)
    for name in (*MEMBERS[1:], 'ensemble'):
        as_truth = []
        for one in logits:
            sample = segmented(one[name])
            sample.gt_sem_seg = PixelData(data=one['teacher'].argmax(0)[None])
            as_truth.append(sample)
        for key, value in run(ForegroundIoU(), as_truth, META).items():
            assert values[f'{name}/{key.replace("foreground", "fidelity")}'] == pytest.approx(value)
        same = [(one[name].argmax(0) == one['teacher'].argmax(0)).numpy() for one in logits]
        assert values[f'{name}/fidelity/agreement'] == pytest.approx(100 * np.mean(same))
    assert len(values) == 3 * 8
    assert (
        len({values[f'{name}/fidelity/IoU'] for name in ('student_1', 'student_2', 'ensemble')})
        == 3
    )


def test_divergence_of_masks_equals_numpy(run):
    samples, logits = drawn_masks()
    values = run(Fidelity(), samples, META)

    def expected(name):
        terms = []
        for one in logits:
            teacher, own = one['teacher'].double().numpy(), one[name].double().numpy()
            log_own = np.log(own / own.sum(0)) if name == 'ensemble' else log_softmax(own, axis=0)
            terms.append(
                (softmax(teacher, axis=0) * (log_softmax(teacher, axis=0) - log_own)).sum(0)
            )
        return np.mean(terms)

    for name in (*MEMBERS[1:], 'ensemble'):
        assert values[f'{name}/fidelity/KL'] == pytest.approx(expected(name), rel=1e-6)


def test_copy_of_the_teacher_has_full_fidelity(run):
    predictions = dict.fromkeys((*MEMBERS, 'ensemble'), [0.2, 0.8])
    values = run(Fidelity(), [classroom(classified, **predictions)])
    assert values['student_2/fidelity/accuracy'] == 100
    assert values['student_2/fidelity/KL'] == pytest.approx(0, abs=1e-12)


def test_certain_predictions_have_finite_divergence(run):
    predictions = dict(teacher=[0.0, 1.0], student_1=[1.0, 0.0], ensemble=[0.0, 1.0])
    values = run(Fidelity(), [classroom(classified, **predictions)])
    assert values['student_1/fidelity/KL'] == pytest.approx(math.log(1e7), rel=1e-5)
    assert values['ensemble/fidelity/KL'] == 0


def test_teacher_can_be_named(run):
    predictions = dict(big=[0.2, 0.8], teacher=[0.8, 0.2], small=[0.3, 0.7], ensemble=[0.3, 0.7])
    values = run(
        METRICS.build(dict(type=Fidelity, teacher='big')), [classroom(classified, **predictions)]
    )
    assert {name: values[f'{name}/fidelity/accuracy'] for name in ('teacher', 'small')} == {
        'teacher': 0.0,
        'small': 100.0,
    }
    assert not any(key.startswith('big') for key in values)


def test_no_values_without_a_teacher(run):
    predictions = dict(student_1=[0.2, 0.8], student_2=[0.2, 0.8], ensemble=[0.2, 0.8])
    assert run(Fidelity(), [classroom(classified, **predictions)]) == {}
    assert run(Fidelity(), [classified([0.2, 0.8])]) == {}
    with pytest.raises(ValueError, match=r"teacher 'techer': expected .* got \['student"):
        run(Fidelity(teacher='techer'), [classroom(classified, **predictions)])


def test_different_shapes_raise(run):
    predictions = dict(teacher=[0.2, 0.8], student_1=[0.2, 0.7, 0.1], ensemble=[0.2, 0.8])
    with pytest.raises(ValueError, match=r'predictions of student_1: .* got \(M, K\) \(1, 3\) and'):
        run(Fidelity(), [classroom(classified, **predictions)])


def test_samples_are_not_changed(run):
    samples, logits = drawn_masks(count=1)
    run(Fidelity(), samples, META)
    assert torch.equal(samples[0].members.student_1.seg_logits.data, logits[0]['student_1'])
    assert 'gt_sem_seg' not in samples[0]


BOX, FAR = [10, 10, 60, 60], [70, 70, 100, 100]


def test_boxes_by_hand(run, boxes):
    # The third box of the teacher does not count.
    teacher = ([BOX, FAR, BOX], [0, 1, 1], [0.3, 0.9, 0.29])
    sample = boxes.classroom(
        0,
        ([], []),  # the ground truth is ignored
        teacher=teacher,
        student_1=([BOX, FAR], [0, 0], [0.3, 0.9]),  # the second has another class
        student_2=([BOX, FAR], [0, 1], [0.29, 0.9]),  # the first is below the threshold
        ensemble=([[*BOX[:3], 35], [*FAR[:3], 84]], [0, 1], [0.5, 0.5]),  # IoU 0.5 and 0.47
    )
    assert run(dict(type=Fidelity), [sample], boxes.META) == {
        'student_1/fidelity/AP50': 25.0,  # of class 0 50, of class 1 0
        'student_1/fidelity/box_agreement': 50.0,
        'student_2/fidelity/AP50': 100.0,
        'student_2/fidelity/box_agreement': 50.0,
        'ensemble/fidelity/AP50': 50.0,
        'ensemble/fidelity/box_agreement': 50.0,
    }


def test_boxes_of_the_teacher_as_truth_equal_box_ap(run, boxes):
    samples = boxes.random(10)
    values = run(Fidelity(score_threshold=0.4), samples, boxes.META)
    for sample in samples:
        own = sample.members.teacher.pred_instances
        sample.gt_instances = own[own.scores >= 0.4]
        sample.ignored_instances = own[:0]
    metric = METRICS.build(dict(type='BoxAP'))
    for name in ('student_1', 'student_2', 'ensemble'):
        expected = run(metric, boxes.separate(samples, name), boxes.META)['coco/bbox_mAP_50']
        assert values[f'{name}/fidelity/AP50'] == pytest.approx(100 * expected, abs=0.051)
        assert 5 < values[f'{name}/fidelity/AP50'] < 90
        assert 10 < values[f'{name}/fidelity/box_agreement'] < 90


def test_copies_of_the_teacher_agree_with_it(run, boxes):
    samples = boxes.random(4)
    for sample in samples:
        sample.members.student_1 = sample.members.teacher
    values = run(Fidelity(score_threshold=0), samples, boxes.META)
    assert values['student_1/fidelity/AP50'] == pytest.approx(100)
    assert values['student_1/fidelity/box_agreement'] == 100


def test_teacher_without_boxes_is_logged(run, boxes):
    sample = boxes.classroom(0, ([], []), teacher=([BOX], [0], [0.2]), student_1=([], [], []))
    messages, handler = [], logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        values = run(Fidelity(), [sample, sample], boxes.META)
    finally:
        logger.removeHandler(handler)
    assert len(values) == 4
    assert all(map(math.isnan, values.values()))
    (message,) = messages
    assert 'teacher has no box with a score of at least 0.3' in message


def test_detectors_without_teacher_have_no_values(run, boxes):
    sample = boxes.classroom(0, ([], []), student_1=([BOX], [0], [0.5]))
    assert run(Fidelity(), [sample], boxes.META) == {}
    with pytest.raises(ValueError, match='score_threshold: expected a value .* got 30'):
        Fidelity(score_threshold=30)
