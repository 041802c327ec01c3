"""Classrooms of members with multi-label heads."""

import copy

import pytest
import torch
from mmpretrain.models import (
    CSRAClsHead,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    MultiLabelLinearClsHead,
    ResNet,
)
from mmpretrain.structures import DataSample

from mmkdml.functional import feature_mse, prediction_kl
from mmkdml.models import DiversifiedKDMLDistiller, KnowledgeDistiller
from mmkdml.models.losses import PredictionKLLoss
from mmkdml.registry import MODELS

CLASSES = 3
WEIGHTS = dict(alpha=(0.2, 0.4), beta=(0.4, 0.3), gamma=(0.4, 0.3))


def member(head=None, **options):
    head = head or dict(type=MultiLabelLinearClsHead, num_classes=CLASSES, in_channels=32)
    pooled = head['type'] is not CSRAClsHead
    return dict(
        type=ImageClassifier,
        backbone=dict(type=ResNet, depth=18, base_channels=4, stem_channels=4),
        neck=dict(type=GlobalAveragePooling) if pooled else None,
        head=dict(head, **options),
    )


def classroom(mode='kdml', style='v3', weights=WEIGHTS, teacher=None, **options):
    torch.manual_seed(0)
    weights = {k: v for k, v in weights.items() if k != ('beta' if mode == 'ml' else '')}
    if mode.startswith('kd_'):
        weights.pop('gamma')
    built = DiversifiedKDMLDistiller(
        mode=mode,
        style=style,
        teacher=teacher or member(),
        students=[member(), member()],
        weights=weights,
        input_size=(32, 32),
        **options,
    )
    return built


@pytest.fixture
def inputs():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def samples():
    return [DataSample().set_gt_label(one) for one in ([0, 2], [1], [], [0, 1, 2])]


@pytest.mark.parametrize('style', ['v1', 'v2', 'v3'])
@pytest.mark.parametrize('mode', ['ml', 'kd_off', 'kd_on', 'kdml'])
def test_losses_of_all_modes_and_styles(mode, style, inputs, samples):
    model = classroom(mode, style, temperature=3.0).eval()  # one set of statistics for all passes
    losses = model(inputs, samples, mode='loss')
    logits = model(inputs)
    maps = {name: one.backbone(inputs)[-1] for name, one in model.named_members().items()}
    for transfer in model.transfers:
        if transfer.knowledge == 'predictions':
            expected = sum(
                prediction_kl(*(logits[side][:, [k]] for side in sides), 3.0)
                for sides in [(transfer.learner, transfer.source)]
                for k in range(CLASSES)
            )
        else:
            expected = feature_mse(maps[transfer.learner], maps[transfer.source])
        torch.testing.assert_close(losses[transfer.key], transfer.weight * expected)
    supervised = {key for key in losses if key.endswith('.loss')}
    assert len(losses) == len(supervised) + len(model.transfers)


@pytest.mark.parametrize('labels', ['gt_label', 'gt_score'])
def test_zero_transfer_weights_equal_plain_training(inputs, samples, labels):
    if labels == 'gt_score':
        samples = [
            DataSample().set_gt_score([float(k in one.gt_label) for k in range(CLASSES)])
            for one in samples
        ]
    head = dict(type=CSRAClsHead, num_classes=CLASSES, in_channels=32, num_heads=2, lam=0.1)
    model = classroom(
        weights=dict(alpha=(1, 1), beta=(0, 0), gamma=(0, 0)), teacher=member(head)
    ).train()
    twins = copy.deepcopy(model.named_members())
    losses = model(inputs, samples, mode='loss')
    assert set(losses) == {f'{name}.loss' for name in twins}
    sum(losses.values()).backward()
    for name, twin in twins.items():
        expected = twin(inputs, samples, mode='loss')['loss']
        assert torch.equal(losses[f'{name}.loss'], expected)
        expected.backward()
        own = model.named_members()[name]
        for ours, theirs in zip(own.parameters(), twin.parameters(), strict=True):
            assert torch.equal(ours.grad, theirs.grad)


def test_predictions_of_members_and_ensemble(inputs, samples):
    model = classroom(teacher=member(thr=0.4), ensemble='mean').eval()
    predicted = model(inputs, samples, mode='predict')
    logits = model(inputs)
    for index, sample in enumerate(predicted):
        for name, threshold in (('teacher', 0.4), ('student_1', 0.5), ('student_2', 0.5)):
            own = sample.members.get(name)
            torch.testing.assert_close(own.pred_score, logits[name][index].sigmoid())
            assert own.pred_label.tolist() == (own.pred_score >= threshold).nonzero()[:, 0].tolist()
        students = [sample.members.get(name).pred_score for name in model.student_names]
        torch.testing.assert_close(sample.pred_score, torch.stack(students).mean(0))


def test_batch_augmentation_mixes_the_labels(inputs):
    augments = dict(augments=dict(type='Mixup', alpha=1.0))
    students = [dict(member(), train_cfg=augments) for _ in range(2)]
    model = KnowledgeDistiller(
        members=dict(zip('ab', students, strict=True)), transfers=[], input_size=(32, 32)
    )
    samples = [DataSample().set_gt_label(one) for one in ([0, 2], [1], [], [0, 1, 2])]
    torch.manual_seed(0)
    batch = model.data_preprocessor(dict(inputs=list(inputs), data_samples=samples), training=True)
    mixed = torch.stack([one.gt_score for one in batch['data_samples']])
    assert mixed.shape == (4, CLASSES)
    assert ((mixed > 0) & (mixed < 1)).any()
    losses = model(**batch, mode='loss')
    logits = model.members['a'](batch['inputs'])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, mixed, reduction='sum')
    torch.testing.assert_close(losses['a.loss'], expected / 4)


def test_methods_that_use_the_classifier(samples):
    # SRRL compares logits of the teacher's classifier; SimKD reuses it.
    teacher = MODELS.build(member())
    rows = [
        dict(source='teacher', learner=name, knowledge='features', weight=1.0, loss=dict(type=kind))
        for name, kind in (('srrl', 'SRRLLoss'), ('simkd', 'SimKDLoss'))
    ]
    model = KnowledgeDistiller(
        members=dict(teacher=teacher, srrl=member(), simkd=member()),
        transfers=rows,
        frozen=dict(teacher=None),
        reused_classifiers=dict(simkd='teacher'),
        supervised_weights=dict(simkd=0.0),
        input_size=(64, 64),
    )
    losses = model(torch.randn(4, 3, 64, 64), samples, mode='loss')
    assert losses['srrl.loss_from_teacher.features'] > 0
    assert losses['simkd.loss_from_teacher.features'] > 0
    assert torch.equal(model.members['simkd'].head.fc.weight, teacher.head.fc.weight)


def test_losses_with_a_softmax_raise():
    for loss in (PredictionKLLoss(), dict(type='PredictionKLLoss', multi_label=False)):
        with pytest.raises(ValueError, match=r'student_1.*PredictionKLLoss does not support'):
            classroom(losses=dict(predictions=loss))


def test_single_label_members_keep_the_softmax():
    head = dict(type=LinearClsHead, num_classes=CLASSES, in_channels=32)
    model = KnowledgeDistiller(
        members=dict(a=member(head), b=member(head)),
        transfers=[dict(source='a', learner='b', knowledge='predictions', weight=1.0)],
        input_size=(32, 32),
    )
    assert model.transfer_terms[0].loss.multi_label is False


def test_members_with_both_kinds_of_heads_raise():
    head = dict(type=LinearClsHead, num_classes=CLASSES, in_channels=32)
    with pytest.raises(TypeError, match='teacher: LinearClsHead, .*MultiLabelLinearClsHead'):
        classroom(teacher=member(head))


def test_numbers_of_classes_must_agree():
    with pytest.raises(ValueError, match=r'\(1, 3\).*\(1, 4\)|\(1, 4\).*\(1, 3\)'):
        classroom('kd_on', 'v1', teacher=member(num_classes=4))


def test_unknown_ensembles_raise():
    with pytest.raises(ValueError, match="max, mean, vote for classification.*'union'"):
        classroom(ensemble='union')
