import copy
import re

import pytest
import torch
from mmpretrain.models import (
    ConformerHead,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    MobileNetV3,
    ResNet,
    ShuffleNetV2,
    StackedLinearClsHead,
    VisionTransformer,
    VisionTransformerClsHead,
)
from mmpretrain.models.heads import ArcFaceClsHead, MultiTaskHead
from mmpretrain.structures import DataSample, MultiTaskDataSample

from mmkdml.models import BinaryLinearClsHead, ConvBlockNeck
from mmkdml.models.tasks import ClassificationTask

TASK = ClassificationTask()
POOL = dict(type=GlobalAveragePooling)
RESNET = dict(
    type=ResNet, depth=18, base_channels=4, stem_channels=4
)  # 32 channels in the last map


def classifier(head, backbone=RESNET, neck=POOL):
    torch.manual_seed(0)
    return ImageClassifier(backbone=backbone, neck=neck, head=head)


def linear(num_classes=3, **kwargs):
    return dict(type=LinearClsHead, num_classes=num_classes, in_channels=32, **kwargs)


NETWORKS = {
    'resnet': lambda: classifier(linear(cal_acc=True)),
    'binary': lambda: classifier(dict(type=BinaryLinearClsHead, in_channels=32)),
    'teacher': lambda: classifier(
        linear(), neck=dict(type=ConvBlockNeck, in_channels=32, out_channels=32)
    ),
    'mobilenet_v3': lambda: classifier(
        dict(
            type=StackedLinearClsHead,
            num_classes=3,
            in_channels=576,
            mid_channels=[16],
            dropout_rate=0.5,
            act_cfg=dict(type='HSwish'),
        ),
        dict(type=MobileNetV3, arch='small'),
    ),
    'shufflenet_v2': lambda: classifier(
        linear() | dict(in_channels=1024), dict(type=ShuffleNetV2, widen_factor=0.5)
    ),
    'vision_transformer': lambda: classifier(
        dict(type=VisionTransformerClsHead, num_classes=3, in_channels=16),
        dict(
            type=VisionTransformer,
            img_size=32,
            patch_size=8,
            drop_rate=0.5,
            drop_path_rate=0.3,
            arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
        ),
        neck=None,
    ),
}


@pytest.fixture(params=NETWORKS)
def member(request):
    return NETWORKS[request.param]()


@pytest.fixture
def inputs():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def samples():
    return [
        DataSample(metainfo=dict(sample_idx=index)).set_gt_label(label)
        for index, label in enumerate([0, 1, 1, 0])
    ]


def gradients(member, losses):
    member.zero_grad()
    losses['loss'].backward()
    return {name: p.grad.clone() for name, p in member.named_parameters() if p.grad is not None}


def same(found, expected):
    return found.keys() == expected.keys() and all(
        torch.equal(value, expected[key]) for key, value in found.items()
    )


def content(batch):
    return copy.deepcopy([(sample.to_dict(), sample.metainfo) for sample in batch])


def count_forwards(module):
    calls = []
    module.register_forward_hook(lambda *args: calls.append(1))
    return calls


def test_training_step_equals_the_frameworks(member, inputs, samples):
    member.train()
    twin = copy.deepcopy(member)
    torch.manual_seed(7)
    expected = twin.loss(inputs, samples)
    torch.manual_seed(7)
    losses, logits = TASK.training_step(member, inputs, samples)
    assert same(
        {k: torch.as_tensor(v) for k, v in losses.items()},
        {k: torch.as_tensor(v) for k, v in expected.items()},
    )
    assert same(gradients(member, losses), gradients(twin, expected))
    assert same(member.state_dict(), twin.state_dict())

    other = copy.deepcopy(twin)
    torch.manual_seed(7)
    assert torch.equal(logits, other(inputs))
    assert logits.shape == (4, 1 if isinstance(member.head, BinaryLinearClsHead) else 3)


def test_training_step_applies_dropout(inputs, samples):
    member = NETWORKS['vision_transformer']().train()
    first, second = (TASK.training_step(member, inputs, samples)[1] for _ in range(2))
    assert not torch.equal(first, second)


def test_logits_have_a_gradient(member, inputs, samples):
    _, logits = TASK.training_step(member, inputs, samples)
    logits.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in member.backbone.parameters())


def test_logits_equal_the_frameworks(member, inputs):
    member.eval()
    assert torch.equal(TASK.logits(member, inputs), member(inputs))


def test_members_run_forward_once(member, inputs, samples):
    calls = count_forwards(member.backbone)
    TASK.training_step(member, inputs, samples)
    assert len(calls) == 1
    TASK.logits(member, inputs)
    assert len(calls) == 2
    TASK.predict(member, inputs, samples)
    assert len(calls) == 3


def test_hooks_are_removed(member, inputs, samples):
    TASK.training_step(member, inputs, samples)
    TASK.logits(member, inputs)
    assert not any(module._forward_hooks for module in member.modules())


def test_logits_of_the_training_step_include_margins(inputs, samples):
    member = classifier(dict(type=ArcFaceClsHead, num_classes=3, in_channels=32)).eval()
    losses, with_margin = TASK.training_step(member, inputs, samples)
    assert same(losses, member.loss(inputs, samples))
    plain = TASK.logits(member, inputs)
    assert torch.equal(plain, member(inputs))
    labels = torch.tensor([0, 1, 1, 0])
    lowered = with_margin < plain - 1e-3
    assert torch.equal(lowered, torch.nn.functional.one_hot(labels, 3).bool())


def test_heads_with_two_branches_have_no_logits(inputs, samples):
    head = dict(type=ConformerHead, num_classes=3, in_channels=[32, 32])

    class Twice(torch.nn.Module):
        def forward(self, maps):
            pooled = maps[-1].mean((2, 3))
            return ([pooled, 2 * pooled],)

    member = classifier(head, neck=Twice()).eval()
    losses, logits = TASK.training_step(member, inputs, samples)
    assert logits is None
    assert same(losses, member.loss(inputs, samples))
    assert TASK.logits(member, inputs) is None


def test_multi_task_heads_have_no_logits(inputs):
    member = classifier(
        dict(
            type=MultiTaskHead,
            task_heads=dict(a=dict(type=LinearClsHead, num_classes=3)),
            in_channels=32,
        )
    )
    truth = [MultiTaskDataSample() for _ in inputs]
    for sample in truth:
        sample.set_field(DataSample().set_gt_label(1), 'a')
    losses, logits = TASK.training_step(member, inputs, truth)
    assert logits is None
    assert losses.keys() == member.loss(inputs, truth).keys()
    assert TASK.logits(member, inputs) is None


def test_default_taps():
    assert TASK.default_tap(NETWORKS['resnet']()) == 'backbone'
    assert TASK.default_tap(NETWORKS['teacher']()) == 'neck.conv_block'


def test_predictions_equal_the_frameworks_without_labels(member, inputs, samples):
    member.eval()
    before = content(samples)
    predictions = TASK.predict(member, inputs, samples)
    assert repr(content(samples)) == repr(before)
    for prediction, expected in zip(
        predictions, member.predict(inputs, copy.deepcopy(samples)), strict=True
    ):
        assert set(prediction.keys()) == {'pred_score', 'pred_label'}
        assert prediction.metainfo == expected.metainfo
        assert torch.equal(prediction.pred_score, expected.pred_score)
        assert torch.equal(prediction.pred_label, expected.pred_label)


def test_predict_without_samples(member, inputs):
    predictions = TASK.predict(member.eval(), inputs, None)
    assert [set(p.keys()) for p in predictions] == [{'pred_score', 'pred_label'}] * 4


def predicted(scores):
    return [
        DataSample()
        .set_pred_score(torch.tensor(score))
        .set_pred_label(torch.tensor(score).argmax())
        for score in scores
    ]


SCORES = ([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], [[0.1, 0.6, 0.3], [0.8, 0.1, 0.1]])


@pytest.mark.parametrize(
    ('ensemble', 'scores', 'labels'),
    [
        ('max', [[0.5, 0.6, 0.3], [0.8, 0.2, 0.7]], [1, 0]),
        ('mean', [[0.3, 0.45, 0.25], [0.45, 0.15, 0.4]], [1, 0]),
        # The higher mean breaks the tie.
        ('vote', [[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]], [1, 0]),
    ],
)
def test_combine_by_hand(ensemble, scores, labels):
    students = [NETWORKS['resnet']()] * 2
    predictions = [predicted(batch) for batch in SCORES]
    own_samples = [DataSample(metainfo=dict(sample_idx=5)).set_gt_label(2) for _ in range(2)]
    combined = TASK.combine(students, predictions, TASK.ensembles[ensemble], own_samples)
    assert all(a is b for a, b in zip(combined, own_samples, strict=True))
    for sample, score, label in zip(combined, scores, labels, strict=True):
        torch.testing.assert_close(sample.pred_score, torch.tensor(score))
        assert sample.pred_label.tolist() == [label]
        assert sample.gt_label.tolist() == [2]
    assert [p.pred_score.tolist() for p in predictions[0]] == [
        pytest.approx(score) for score in SCORES[0]
    ]
    fresh = TASK.combine(students, predictions, TASK.ensembles[ensemble], None)
    assert [sample.pred_label.item() for sample in fresh] == labels
    assert 'gt_label' not in fresh[0]


def test_ensemble_of_one_student_is_its_prediction(member, inputs):
    predictions = TASK.predict(member.eval(), inputs, None)
    combined = TASK.combine([member], [predictions], TASK.ensembles['max'], None)
    for ours, theirs in zip(combined, predictions, strict=True):
        assert torch.equal(ours.pred_score, theirs.pred_score)
        assert torch.equal(ours.pred_label, theirs.pred_label)


def binary(threshold=0.5):
    return classifier(dict(type=BinaryLinearClsHead, in_channels=32, threshold=threshold))


def test_students_of_one_kind_are_valid():
    TASK.check_students(dict(a=NETWORKS['resnet'](), b=NETWORKS['mobilenet_v3']()))
    TASK.check_students(dict(a=binary(), b=binary()))


@pytest.mark.parametrize(
    ('students', 'found'),
    [
        (lambda: dict(a=binary(), b=classifier(linear(2))), "{'a': 0.5}"),
        (lambda: dict(a=binary(), b=binary(0.7)), "{'a': 0.5, 'b': 0.7}"),
        (lambda: dict(a=binary(0.7), b=binary(0.7)), "{'a': 0.7, 'b': 0.7}"),
    ],
)
def test_different_thresholds_raise(students, found):
    with pytest.raises(ValueError, match=re.escape(f'threshold=0.5 in all of them, got {found}')):
        TASK.check_students(students())


def test_labels(samples):
    truth = TASK.truth(samples)
    assert truth.tolist() == [0, 1, 1, 0]
    assert truth.dtype == torch.long


@pytest.mark.parametrize(
    'other',
    [
        DataSample(),
        DataSample().set_gt_score(torch.tensor([0.3, 0.7])),
        DataSample().set_gt_label([0, 1]),
    ],
)
def test_samples_without_one_label_raise(samples, other):
    with pytest.raises(ValueError, match=r'one label \(gt_label\)'):
        TASK.truth([*samples[:2], other])


def test_mixed_labels_raise():
    def scored(first):
        return [
            DataSample().set_gt_label(label).set_gt_score(torch.tensor(score))
            for label, score in ((0, first), (1, [0.0, 1.0]))
        ]

    assert TASK.truth(scored([1.0, 0.0])).tolist() == [0, 1]
    with pytest.raises(ValueError, match='labels mixed by a batch augmentation'):
        TASK.truth(scored([0.7, 0.3]))


def test_number_of_classes():
    assert TASK.num_classes(NETWORKS['resnet']()) == 3
    assert TASK.num_classes(NETWORKS['binary']()) == 2  # one logit
    assert TASK.num_classes(ImageClassifier(backbone=RESNET)) == 2


@pytest.mark.parametrize('network', ['resnet', 'binary', 'teacher'])
@pytest.mark.parametrize('frozen', [False, True])
def test_gradients_flow_through_but_not_into_a_classifier(network, frozen):
    member = NETWORKS[network]().requires_grad_(not frozen)
    features = torch.randn(4, 32, requires_grad=True)
    expected = member.head.fc(features)
    logits = TASK.classifier(member)(features)
    assert torch.equal(logits, expected)
    logits.square().sum().backward()
    found, features.grad = features.grad, None
    assert all(p.grad is None and p.requires_grad != frozen for p in member.parameters())
    expected.square().sum().backward()
    assert torch.equal(found, features.grad)
    assert found.any()


def test_classifier_has_the_current_weights():
    member = NETWORKS['resnet']()
    features = torch.randn(2, 32)
    before = TASK.classifier(member)(features)
    with torch.no_grad():
        member.head.fc.weight.mul_(2)
    after = TASK.classifier(member)(features)
    assert not torch.allclose(before, after)
    assert torch.equal(after, member.head.fc(features))


def test_reused_classifier_is_a_fixed_copy():
    source, learner = NETWORKS['teacher'](), NETWORKS['resnet']()
    before = copy.deepcopy(source.state_dict())
    assert not torch.equal(learner.head.fc.weight, source.head.fc.weight)
    TASK.reuse_classifier(learner, source)
    assert torch.equal(learner.head.fc.weight, source.head.fc.weight)
    assert torch.equal(learner.head.fc.bias, source.head.fc.bias)
    assert not any(p.requires_grad for p in learner.head.parameters())
    assert all(p.requires_grad for p in source.parameters())
    with torch.no_grad():
        source.head.fc.weight.add_(1)  # does not change the copy
    assert torch.equal(learner.head.fc.weight, before['head.fc.weight'])


def test_init_weights_keeps_a_reused_classifier():
    source, learner, other = (classifier(linear()) for _ in range(3))
    TASK.reuse_classifier(learner, source)
    for member in (learner, other):
        member.init_weights()
    assert torch.equal(learner.head.fc.weight, source.head.fc.weight)
    assert torch.equal(learner.head.fc.bias, source.head.fc.bias)
    assert not torch.equal(other.head.fc.weight, source.head.fc.weight)


@pytest.mark.parametrize(
    ('learner', 'source', 'message'),
    [
        (
            'binary',
            'resnet',
            r"\('BinaryLinearClsHead', 32, 1\) of the learner and \('LinearClsHead'",
        ),
        ('shufflenet_v2', 'resnet', "'LinearClsHead', 1024, 3.*'LinearClsHead', 32, 3.*SimKDNeck"),
        ('mobilenet_v3', 'resnet', 'SRRL or SimKD.*got StackedLinearClsHead'),
        ('resnet', 'vision_transformer', 'got VisionTransformerClsHead'),
    ],
)
def test_reusing_a_different_classifier_raises(learner, source, message):
    with pytest.raises(ValueError, match=message):
        TASK.reuse_classifier(NETWORKS[learner](), NETWORKS[source]())


def test_reusing_another_number_of_classes_raises():
    learner = classifier(dict(linear(), num_classes=5))
    with pytest.raises(ValueError, match=r"\('LinearClsHead', 32, 5\) of the learner .* 32, 3\)"):
        TASK.reuse_classifier(learner, NETWORKS['resnet']())


def test_classifier_of_a_network_without_head_raises():
    with pytest.raises(ValueError, match='got NoneType'):
        TASK.classifier(ImageClassifier(backbone=RESNET))
