import pytest
import torch
import torch.nn.functional as F
from mmpretrain.evaluation import Accuracy, SingleLabelMetric
from mmpretrain.structures import DataSample

from mmkdml.models import BinaryLinearClsHead

LABELS = [0, 1, 1, 0]


@pytest.fixture
def head():
    torch.manual_seed(0)
    head = BinaryLinearClsHead(in_channels=5)
    head.fc.weight.data.normal_()
    head.fc.bias.data.zero_()
    return head


@pytest.fixture
def features(head):
    features = torch.randn(4, 5)
    return (torch.cat([features[:2], -features[:2]]),)  # so that both labels occur


def samples(labels=LABELS):
    return [DataSample().set_gt_label(label) for label in labels]


def test_loss_equals_cross_entropy_of_two_classes(head, features):
    logits = head(features)
    assert logits.shape == (4, 1)
    two_classes = torch.cat([torch.zeros_like(logits), logits], dim=1)
    losses = head.loss(features, samples())
    assert list(losses) == ['loss']
    torch.testing.assert_close(losses['loss'], F.cross_entropy(two_classes, torch.tensor(LABELS)))


def test_mixed_labels_are_shares_of_both_classes(head, features):
    shares = torch.tensor([[0.7, 0.3], [0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    mixed = [sample.set_gt_score(share) for sample, share in zip(samples(), shares, strict=True)]
    logits = head(features)
    two_classes = torch.cat([torch.zeros_like(logits), logits], dim=1)
    torch.testing.assert_close(
        head.loss(features, mixed)['loss'], F.cross_entropy(two_classes, shares)
    )


def test_predictions_have_probabilities_of_both_classes(head, features):
    logits = head(features).squeeze(1)
    predictions = head.predict(features)
    for logit, prediction in zip(logits, predictions, strict=True):
        two_classes = torch.stack([torch.zeros_like(logit), logit]).softmax(0)
        torch.testing.assert_close(prediction.pred_score, two_classes)
        assert prediction.pred_score.sum().item() == pytest.approx(1)
        assert prediction.pred_label.tolist() == [int(logit > 0)]
    assert {p.pred_label.item() for p in predictions} == {0, 1}


def test_predictions_are_set_in_the_samples(head, features):
    own_samples = samples()
    predictions = head.predict(features, own_samples)
    assert all(a is b for a, b in zip(predictions, own_samples, strict=True))
    assert [sample.gt_label.item() for sample in predictions] == LABELS


def test_threshold_of_class_1(head):
    strict = BinaryLinearClsHead(in_channels=5, threshold=0.8)
    logits = torch.tensor([0.79, 0.8001, 0.2]).logit()[:, None]
    assert [s.pred_label.item() for s in strict._get_predictions(logits, None)] == [0, 1, 0]
    assert [s.pred_label.item() for s in head._get_predictions(logits, None)] == [1, 1, 0]
    assert head._get_predictions(torch.zeros(1, 1), None)[0].pred_label.item() == 0


def test_metrics_of_mmpretrain_evaluate_the_predictions(head):
    logits = torch.tensor([[-1.0], [2.0], [-0.5], [3.0]])  # predicts 0, 1, 0, 1
    batch = [sample.to_dict() for sample in head._get_predictions(logits, samples())]
    accuracy = Accuracy()
    accuracy.process({}, batch)
    assert accuracy.evaluate(4)['accuracy/top1'] == pytest.approx(50)
    metric = SingleLabelMetric(items=('precision', 'recall'), num_classes=2)
    metric.process({}, batch)
    found = metric.evaluate(4)
    assert found['single-label/precision'] == pytest.approx(50)
    assert found['single-label/recall'] == pytest.approx(50)


@pytest.mark.parametrize('label', [-1, 2])
def test_other_labels_raise(head, features, label):
    with pytest.raises(ValueError, match=rf'labels must be 0 or 1.*got \[.*{label}.*\]'):
        head.loss(features, samples([0, 1, label, 1]))


@pytest.mark.parametrize('threshold', [0, 1, -0.5, 7])
def test_invalid_thresholds_raise(threshold):
    with pytest.raises(ValueError, match=f'threshold must be between 0 and 1, got {threshold}'):
        BinaryLinearClsHead(in_channels=5, threshold=threshold)


def test_accuracy_in_training_raises():
    with pytest.raises(ValueError, match='cal_acc .*leave it out'):
        BinaryLinearClsHead(in_channels=5, cal_acc=True)


def test_other_losses_raise():
    with pytest.raises(ValueError, match='loss .*got .*FocalLoss'):
        BinaryLinearClsHead(in_channels=5, loss=dict(type='FocalLoss'))
