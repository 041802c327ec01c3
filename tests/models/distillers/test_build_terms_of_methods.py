"""Transfer terms with several taps and with the losses of the compared methods."""

import copy

import pytest
import torch
from mmengine.registry import MODELS
from mmpretrain.models import StackedLinearClsHead

from mmkdml.models import (
    AttentionTransferLoss,
    CategorySimilarityLoss,
    HolisticLoss,
    IntraClassVariationLoss,
    KnowledgeDistiller,
    PixelSimilarityLoss,
    PixelWiseLoss,
    RegionAffinityLoss,
    SemCKDLoss,
    SimilarityPreservingLoss,
    SRRLLoss,
    Transfer,
    VariationalInformationLoss,
)
from mmkdml.models.distillers.terms.build_terms import build_transfer_terms
from mmkdml.models.tasks import ClassificationTask

STAGES = [f'backbone.layer{stage}' for stage in (1, 2, 3)]


def terms(tiny, *transfers, **members):
    members = {name: MODELS.build(config) for name, config in members.items()} or dict(
        t=MODELS.build(tiny.classifier()), s=MODELS.build(tiny.classifier())
    )
    return build_transfer_terms(members, transfers, ClassificationTask(), tiny.size)


@pytest.mark.parametrize('several', [('source_tap',), ('learner_tap',)])
def test_projector_with_several_taps_raises(tiny, several):
    row = dict(projector=dict(type='ConvProjector'), **dict.fromkeys(several, STAGES))
    with pytest.raises(ValueError, match='t -> s .*projector.* one tap'):
        terms(tiny, Transfer('t', 's', 'features', 1.0, **row))


@pytest.mark.parametrize('taps', [STAGES, STAGES[:1]])
def test_loss_of_one_tap_with_a_list_of_taps_raises(tiny, taps):
    row = Transfer('t', 's', 'features', 1.0, source_tap=taps, learner_tap=taps)
    with pytest.raises(ValueError, match='t -> s .*FeatureMSELoss compares one tap of each side'):
        terms(tiny, row)


def features(loss, source_tap=None, learner_tap=None):
    return dict(knowledge='features', loss=loss, source_tap=source_tap, learner_tap=learner_tap)


PAIRS = 'same number .*got 3 of the learner and 2 of the source'
REGIONS = r'labels \(N, .* got .* and \(2,\).* for segmentation'


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        (features(dict(type=AttentionTransferLoss), STAGES[:2], STAGES), PAIRS),
        (features(dict(type=VariationalInformationLoss), STAGES[:2], STAGES), PAIRS),
        (features(dict(type=SimilarityPreservingLoss), STAGES[:2], STAGES), PAIRS),
        (features(dict(type=PixelSimilarityLoss), STAGES[0], STAGES[0]), 'two or more maps'),
        (features(dict(type=AttentionTransferLoss), 'neck', 'neck'), r'two maps \(N, C, H, W\)'),
        (features(dict(type=SemCKDLoss, batch_size=8), 'neck', 'neck'), r'two maps \(N, C, H, W\)'),
        (
            features(dict(type=SemCKDLoss, batch_size=2), STAGES, STAGES),
            'Invalid factor: .*batch_size=2, got 4',
        ),
        (features(dict(type=IntraClassVariationLoss)), REGIONS),
        (features(dict(type=RegionAffinityLoss)), REGIONS),
        (dict(loss=dict(type=PixelWiseLoss)), r'\(N, C, H, W\), got \(2, 3\).*PredictionKLLoss'),
        (
            dict(loss=dict(type=CategorySimilarityLoss)),
            r'expected maps \(N, C, H, W\), got \(2, 3\).*PredictionKLLoss',
        ),
        (dict(loss=dict(type=HolisticLoss)), 'discriminator: expected logits .* at least 64x64'),
    ],
)
def test_unsupported_method_for_classifiers_raises(tiny, row, message):
    row = {'knowledge': 'predictions', **row}
    with pytest.raises(ValueError, match=message):
        terms(tiny, Transfer('t', 's', weight=1.0, **row))


def classroom(tiny, row, teacher=None, size=32):
    return KnowledgeDistiller(
        members=dict(teacher=teacher or tiny.segmentor(), student=tiny.segmentor()),
        transfers=[dict(dict(source='teacher', learner='student', weight=1.0), **row)],
        input_size=(size, size),
    )


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        (features(dict(type=SRRLLoss)), 'only for classification.* segmentor'),
        (dict(loss=dict(type=HolisticLoss)), r'at least 64x64, got \(2, 1, 32, 32\).*larger'),
        (features(dict(type=AttentionTransferLoss), 'backbone', STAGES[:2]), 'same number'),
    ],
)
def test_unsupported_method_for_segmentors_raises(tiny, row, message):
    with pytest.raises(ValueError, match=f'Invalid transfer teacher -> student .*{message}'):
        classroom(tiny, {'knowledge': 'predictions', **row})


def test_discriminator_supports_64_pixels(tiny):
    row = dict(knowledge='predictions', loss=dict(type=HolisticLoss, width=2))
    classroom(tiny, row, size=64)


def test_number_of_classes_is_that_of_the_learner(tiny):
    row = features(dict(type=RegionAffinityLoss), 'backbone', 'backbone')
    assert classroom(tiny, row).transfer_terms[0].loss.num_classes == 2  # for one logit
    teacher = tiny.segmentor(out_channels=3)
    row['source'], row['learner'] = 'student', 'teacher'
    assert classroom(tiny, row, teacher).transfer_terms[0].loss.num_classes == 3


def test_srrl_needs_a_linear_classifier_of_its_source(tiny):
    head = dict(type=StackedLinearClsHead, num_classes=3, in_channels=32, mid_channels=[16])
    stacked = dict(tiny.classifier(), head=head)
    row = Transfer('t', 's', 'features', 1.0, loss=dict(type=SRRLLoss))
    with pytest.raises(ValueError, match='t -> s .*got StackedLinearClsHead'):
        terms(tiny, row, t=stacked, s=tiny.classifier())
    terms(tiny, row, t=tiny.classifier(), s=stacked)  # the learner may have any


def test_validation_does_not_change_losses(tiny):
    members = {name: MODELS.build(tiny.classifier()).train() for name in 'ts'}
    loss = SemCKDLoss([4, 8, 16], [4, 8, 16], batch_size=8).train()
    row = Transfer('t', 's', 'features', 1.0, loss=loss, source_tap=STAGES, learner_tap=STAGES)
    parts = [*members.values(), loss]
    before = copy.deepcopy([part.state_dict() for part in parts])
    generator = torch.get_rng_state()
    build_transfer_terms(members, [row], ClassificationTask(), tiny.size)
    assert torch.equal(torch.get_rng_state(), generator)
    for part, state in zip(parts, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in part.state_dict().items())
        assert all(module.training for module in part.modules())
        assert all(p.grad is None and p.requires_grad for p in part.parameters())
