import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

from mmkdml.evaluation import (
    ConfusionMatrix,
    ForegroundIoU,
    MacroPrecisionRecall,
    MemberMetrics,
    MultiLabelAUROC,
)
from mmkdml.evaluation.boxes.samples import boxes_by_name, has_boxes, true_boxes_of
from mmkdml.evaluation.predictions import predictions_by_name, truth_of

BOX = [[10, 10, 60, 60]]


def test_boxes_of_each_member(boxes):
    sample = boxes.classroom(
        0, (BOX, [0]), student_2=(BOX, [1], [0.5]), teacher=(BOX * 2, [0, 2], [0.25, 0.75])
    )
    for one in (sample, sample.to_dict()):
        assert has_boxes(one)
        by_name = boxes_by_name(one)
        assert list(by_name) == ['teacher', 'student_2', 'ensemble']
        assert by_name['teacher'].boxes.tolist() == BOX * 2
        assert by_name['teacher'].above(0.75).labels.tolist() == [2]  # its own score suffices
        assert [len(column) for column in by_name['ensemble']] == [0, 0, 0]
    assert list(boxes_by_name(boxes.separate([sample], 'student_2')[0])) == ['model']


def test_true_boxes_with_ignored_ones(boxes):
    sample = boxes.classroom(0, (BOX, [1]), ignored=([[0, 0, 5, 5], [1, 1, 2, 2]], [0, 2]))
    for one in (sample, sample.to_dict()):
        truth = true_boxes_of(one, classes=3)
        assert truth.boxes.tolist() == [*BOX, [0, 0, 5, 5], [1, 1, 2, 2]]
        assert truth.labels.tolist() == [1, 0, 2]
        assert truth.ignored.tolist() == [False, True, True]


def test_image_without_true_boxes(boxes):
    truth = true_boxes_of(boxes.classroom(0, ([], [])))
    assert truth.boxes.shape == (0, 4)
    assert truth.ignored.dtype == bool


@pytest.mark.parametrize('place', [[-20, 5, 30, 40], [100, 80, 140, 130]])
def test_boxes_may_exceed_the_image(boxes, place):
    assert np.array_equal(true_boxes_of(boxes.classroom(0, ([place], [0]))).boxes, [place])


@pytest.mark.parametrize('place', [[-20, 5, 0, 40], [10, 100, 20, 130]])
def test_boxes_outside_the_image_raise(boxes, place):
    with pytest.raises(ValueError, match='outside of its 120 x 100 pixels'):
        true_boxes_of(boxes.classroom(0, ([place], [0])))


@pytest.mark.parametrize(
    'metric',
    [
        ConfusionMatrix(),
        *map(
            MemberMetrics, (ForegroundIoU(), MacroPrecisionRecall(num_classes=3), MultiLabelAUROC())
        ),
    ],
)
def test_metrics_of_other_tasks_refuse_boxes(run, boxes, metric):
    sample = boxes.classroom(0, (BOX, [0]), teacher=(BOX, [0], [0.5]))
    with pytest.raises(ValueError, match=r'got boxes \(pred_instances\).*use BoxAP'):
        run(metric, [sample], boxes.META)


def test_readers_of_other_tasks_refuse_boxes(boxes):
    sample = boxes.classroom(0, (BOX, [0]))
    for read in (predictions_by_name, truth_of):
        with pytest.raises(ValueError, match=r'got boxes \(pred_instances\).*use BoxAP'):
            read(sample)


def test_member_without_boxes_raises(boxes):
    sample = boxes.classroom(0, (BOX, [0]), teacher=(BOX, [0], [0.5]))
    sample.members.student_1 = BaseDataElement(pred_score=torch.ones(3))
    with pytest.raises(ValueError, match='pred_instances of each member, .* for student_1'):
        boxes_by_name(sample)


def test_mmdet_is_not_needed():
    found = InstanceData(bboxes=torch.ones(1, 4), scores=torch.ones(1), labels=torch.ones(1))
    assert boxes_by_name(BaseDataElement(pred_instances=found))['model'].scores.tolist() == [1]
