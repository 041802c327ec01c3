import copy

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn

pytest.importorskip('mmdet')
from mmdet.structures import DetDataSample

from mmkdml.models.tasks import detection_task, task_of

TASK = detection_task()
SIZE = (96, 64)


def batch():
    torch.manual_seed(3)
    return torch.randn(2, 3, *SIZE), TASK.dummy_samples(2, SIZE)


@pytest.mark.parametrize('name', ['atss', 'retinanet', 'fcos', 'gfl', 'rtmdet', 'yolox'])
def test_losses_and_gradients_equal_those_of_mmdet_bit_for_bit(detector, name):
    member = detector(name).train()
    images, samples = batch()
    plain = copy.deepcopy(member)
    expected = plain.parse_losses(plain.loss(images, copy.deepcopy(samples)))[0]
    losses, predictions = TASK.training_step(member, images, samples)
    total = member.parse_losses(losses)[0]
    assert torch.equal(total, expected)
    expected.backward()
    total.backward()
    gradients = [x.grad for x in plain.parameters()]
    for own, other in zip(member.parameters(), gradients, strict=True):
        assert (own.grad is None) == (other is None)
        assert own.grad is None or torch.equal(own.grad, other)
    for (key, own), other in zip(
        member.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        assert torch.equal(own, other), key
    assert predictions.shape[:2] == (2, 3 + 4 + (68 if name == 'gfl' else 0))


def test_predictions_of_a_step_equal_the_logits(detector):
    member = detector('gfl').eval()
    images, samples = batch()
    _, predictions = TASK.training_step(member, images, samples)
    assert torch.equal(predictions, TASK.logits(member, images))


def test_other_detectors_share_features_only(other_detector):
    member = other_detector
    assert task_of(dict(a=member, b=member)) is TASK
    images, samples = batch()
    losses, predictions = TASK.training_step(member, images, samples)
    assert predictions is None
    assert any('loss_bbox' in key for key in losses)
    assert TASK.logits(member, images) is None
    assert TASK.num_classes(member) == 3


def test_unknown_dense_heads_share_features_only(detector):
    member = detector('fovea')
    losses, predictions = TASK.training_step(member, *batch())
    assert predictions is None
    assert set(losses) == {'loss_cls', 'loss_bbox'}
    assert TASK.logits(member, batch()[0]) is None


def test_heads_with_a_softmax_share_features_only(detector):
    member = detector('retinanet')
    member.bbox_head.use_sigmoid_cls = False
    assert TASK.logits(member, batch()[0]) is None


def test_segmentors_and_detectors_in_one_classroom_raise(detector):
    with pytest.raises(TypeError, match='BaseDetector; got a: ATSS, b: Linear'):
        task_of(dict(a=detector('atss'), b=nn.Linear(1, 1)))


@pytest.mark.parametrize(
    ('name', 'tap'), [('atss', 'neck.fpn_convs.0'), ('rtmdet', 'neck.out_convs.0')]
)
def test_default_tap_is_the_finest_level(detector, name, tap):
    member = detector(name)
    features = member.extract_feat(batch()[0])
    (expected,) = [features[0]]
    found = []
    member.get_submodule(tap).register_forward_hook(lambda *args: found.append(args[-1]))
    again = member.eval().extract_feat(batch()[0])
    assert TASK.default_tap(member) == tap
    assert found[0].shape == expected.shape
    assert torch.equal(found[0], again[0])


def test_default_tap_without_a_known_neck(detector):
    member = detector('atss')
    member.neck = nn.Identity()
    assert TASK.default_tap(member) == 'neck'
    del member.neck
    assert TASK.default_tap(member) == 'backbone'


def test_truth_is_relative_to_the_padded_batch():
    sample = DetDataSample(metainfo=dict(img_shape=(30, 60), batch_input_shape=(50, 100)))
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor([[10.0, 5.0, 60.0, 30.0]]), labels=torch.tensor([2])
    )
    (objects,) = TASK.truth([sample])
    torch.testing.assert_close(objects.boxes, torch.tensor([[0.1, 0.1, 0.6, 0.6]]))
    assert objects.labels.tolist() == [2]


def test_truth_of_an_image_without_boxes():
    sample = DetDataSample(metainfo=dict(img_shape=(30, 60)))
    sample.gt_instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    assert TASK.truth([sample])[0].boxes.shape == (0, 4)


def test_samples_without_boxes_raise():
    with pytest.raises(ValueError, match='gt_instances'):
        TASK.truth([DetDataSample()])


@pytest.mark.parametrize('method', ['classifier', 'reuse_classifier'])
def test_methods_on_classifiers_raise(detector, method):
    members = [detector('atss')] * (1 if method == 'classifier' else 2)
    with pytest.raises(ValueError, match='no classifier'):
        getattr(TASK, method)(*members)


def test_students_with_other_classes_raise(detector):
    students = dict(a=detector('atss'), b=detector('atss', num_classes=2))
    with pytest.raises(ValueError, match='num_classes, got a: 3, b: 2'):
        TASK.check_students(students)


def test_predictions_need_no_samples_and_get_no_truth(detector):
    member = detector('atss').eval()
    images, samples = batch()
    with torch.no_grad():
        alone = TASK.predict(member, images, None)
        given = TASK.predict(member, images, samples)
        expected = member.predict(images, copy.deepcopy(samples))
    for one, other, own in zip(alone, given, expected, strict=True):
        assert 'gt_instances' not in other
        assert torch.equal(one.pred_instances.bboxes, own.pred_instances.bboxes)
        assert torch.equal(other.pred_instances.scores, own.pred_instances.scores)


def test_combine_calls_the_ensemble_for_each_image(detector):
    def found(number):
        sample = DetDataSample()
        sample.pred_instances = InstanceData(
            bboxes=torch.full((number, 4), float(number)),
            scores=torch.rand(number),
            labels=torch.zeros(number).long(),
        )
        return sample

    calls = []

    def ensemble(boxes, scores, labels):
        calls.append([len(one) for one in boxes])
        return boxes[0], scores[0], labels[0]

    samples = TASK.combine(
        [None, None], [[found(1), found(2)], [found(0), found(3)]], ensemble, None
    )
    assert calls == [[1, 0], [2, 3]]
    assert [len(one.pred_instances) for one in samples] == [1, 2]


def test_other_detectors_predict(other_detector):
    with torch.no_grad():
        (first, _) = TASK.predict(other_detector.eval(), batch()[0], None)
    assert first.pred_instances.bboxes.shape[1] == 4
