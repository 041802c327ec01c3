import copy
import re

import pytest
import torch
from mmpretrain.models import (
    CSRAClsHead,
    GlobalAveragePooling,
    ImageClassifier,
    MultiLabelClsHead,
    MultiLabelLinearClsHead,
    ResNet,
)
from mmpretrain.structures import DataSample
from torch import nn

from mmkdml.models.losses import FeatureMSELoss, PredictionKLLoss, TransferLoss
from mmkdml.models.tasks import MultiLabelTask

TASK = MultiLabelTask()
POOL = dict(type=GlobalAveragePooling)
RESNET = dict(type=ResNet, depth=18, base_channels=4, stem_channels=4)


def classifier(head, neck=POOL):
    torch.manual_seed(0)
    return ImageClassifier(backbone=RESNET, neck=neck, head=head)


def linear(**options):
    return classifier(dict(type=MultiLabelLinearClsHead, num_classes=3, in_channels=32, **options))


class PooledLogits(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(32, 3)

    def forward(self, maps):
        return (self.fc(maps[-1].mean((2, 3))),)


NETWORKS = {
    'linear': linear,
    'csra': lambda: classifier(
        dict(type=CSRAClsHead, num_classes=3, in_channels=32, num_heads=2, lam=0.1), neck=None
    ),
    'without layers': lambda: classifier(dict(type=MultiLabelClsHead), neck=PooledLogits()),
    'top-k': lambda: linear(topk=2),
}


@pytest.fixture(params=NETWORKS)
def member(request):
    return NETWORKS[request.param]()


@pytest.fixture
def inputs():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=['gt_label', 'gt_score'])
def samples(request):
    if request.param == 'gt_label':
        return [DataSample().set_gt_label(one) for one in ([0, 2], [1], [], [0, 1, 2])]
    scores = ([1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1])
    return [DataSample().set_gt_score(one) for one in scores]


def test_training_step_equals_the_frameworks(member, inputs, samples):
    twin = copy.deepcopy(member.train())
    expected = twin.loss(inputs, samples)
    losses, logits = TASK.training_step(member, inputs, samples)
    assert losses.keys() == expected.keys() == {'loss'}
    assert torch.equal(losses['loss'], expected['loss'])
    assert logits.shape == (4, 3)
    losses['loss'].backward()
    expected['loss'].backward()
    for own, other in zip(member.parameters(), twin.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)


def test_number_of_classes(member):
    assert TASK.num_classes(member) == 3


def test_ensemble_of_one_student_is_its_prediction(member, inputs):
    predictions = TASK.predict(member.eval(), inputs, None)
    combined = TASK.combine([member], [predictions], TASK.ensembles['max'], None)
    for ours, theirs in zip(combined, predictions, strict=True):
        assert torch.equal(ours.pred_score, theirs.pred_score)
        assert ours.pred_label.tolist() == theirs.pred_label.tolist()


def predicted(scores):
    return [DataSample().set_pred_score(score).set_pred_label([]) for score in scores]


@pytest.mark.parametrize(
    ('ensemble', 'scores', 'labels'),
    [
        ('max', [0.9, 0.6, 0.1], [0, 1]),
        ('mean', [0.6, 0.35, 0.1], [0]),
        ('vote', [0.5, 0.5, 0.0], [0]),  # the mean breaks the ties
    ],
)
def test_combine_by_hand(ensemble, scores, labels):
    students, truth = [linear()] * 2, [DataSample().set_gt_label([2])]
    predictions = [predicted([[0.9, 0.1, 0.1]]), predicted([[0.3, 0.6, 0.1]])]
    (combined,) = TASK.combine(students, predictions, TASK.ensembles[ensemble], truth)
    assert combined is truth[0]
    torch.testing.assert_close(combined.pred_score, torch.tensor(scores))
    assert combined.pred_label.tolist() == labels
    assert combined.gt_label.tolist() == [2]


def test_the_ensemble_uses_the_threshold_of_the_heads():
    students = [linear(thr=0.3)] * 2
    predictions = [predicted([[0.3, 0.2, 0.1]])] * 2
    (combined,) = TASK.combine(students, predictions, TASK.ensembles['mean'], None)
    assert combined.pred_label.tolist() == [0]


def test_one_threshold_is_required():
    TASK.check_students(dict(a=linear(thr=0.3), b=linear(thr=0.3)))
    for thr, found in ((dict(thr=0.7), '0.7'), (dict(topk=2), 'None')):
        with pytest.raises(ValueError, match=re.escape(f"{{'a': 0.3, 'b': {found}}}")):
            TASK.check_students(dict(a=linear(thr=0.3), b=linear(**thr)))


def test_losses_with_one_class_per_image_raise(samples):
    with pytest.raises(ValueError, match='one class per image'):
        TASK.truth(samples)


def test_prediction_losses():
    TASK.check_prediction_loss(PredictionKLLoss(multi_label=True))
    TASK.check_prediction_loss(FeatureMSELoss())
    for loss in (PredictionKLLoss(), TransferLoss(), nn.MSELoss()):
        with pytest.raises(ValueError, match=f'{type(loss).__name__} does not support multi-label'):
            TASK.check_prediction_loss(loss)


def test_classifiers_for_srrl_and_simkd():
    source, learner = linear(), linear()
    features = torch.randn(2, 32)
    assert torch.equal(TASK.classifier(source)(features), source.head.fc(features))
    with torch.no_grad():
        source.head.fc.weight.add_(1)
    TASK.reuse_classifier(learner, source)
    assert torch.equal(learner.head.fc.weight, source.head.fc.weight)
    with pytest.raises(ValueError, match='got CSRAClsHead'):
        TASK.classifier(NETWORKS['csra']())


def test_dummy_samples_are_valid_for_training(member, inputs):
    assert TASK.training_step(member, inputs, TASK.dummy_samples(4, (32, 32)))[0]['loss'] > 0
