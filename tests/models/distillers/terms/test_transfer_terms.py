import copy

import pytest
import torch
from torch import nn

from mmkdml.models import HolisticLoss, KnowledgeDistiller, SRRLLoss, Transfer
from mmkdml.models.distillers.terms.transfer_terms import (
    MemberOutputs,
    TransferTerm,
    detach_source,
    project,
    projector_side,
    tap_names,
    weight_losses,
)
from mmkdml.models.taps import TapRecorder
from mmkdml.models.tasks import ClassificationTask, SegmentationTask
from mmkdml.registry import MODELS


class RecordingLoss(nn.Module):
    """Loss that records its inputs."""

    requires_same_shape = False

    def __init__(self, truth=False, classifier=False):
        super().__init__()
        self.needs_truth, self.needs_source_classifier = truth, classifier
        self.calls = []

    def forward(self, *args):
        self.calls.append(args)
        learner = args[0][0] if isinstance(args[0], list) else args[0]
        return learner.square().mean()


def term(loss, projector=None, knowledge='features', **taps):
    transfer = Transfer('t', 's', knowledge, 0.5, **taps)
    return TransferTerm(
        transfer, 'key', transfer.source_tap, transfer.learner_tap, loss.eval(), projector
    )


def test_member_outputs_select_logits_one_map_or_several():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    with TapRecorder(network, ['0', '1']) as taps:
        logits = network(torch.randn(5, 2))
    outputs = MemberOutputs(logits, taps)
    assert outputs.select(None) is logits
    assert outputs.select('0').shape == (5, 3)
    several = outputs.select(('1', '0'))
    assert isinstance(several, list)
    assert several[0] is logits
    assert several[1] is outputs.select('0')
    assert outputs.select(('0',))[0] is several[1]  # one tap in a list returns a list


def test_selecting_missing_logits_raises():
    with pytest.raises(ValueError, match='head of pupil.*single tensor of logits'):
        MemberOutputs(None, TapRecorder(nn.Identity(), []), 'pupil').select(None)


def test_detached_source_has_equal_values_and_no_graph():
    weight = torch.randn(3, requires_grad=True)
    one, several = detach_source(weight * 2), detach_source([weight * 2, weight + 1])
    assert torch.equal(one, weight.detach() * 2)
    assert isinstance(several, list)
    assert torch.equal(several[1], weight.detach() + 1)
    assert not any(tensor.requires_grad for tensor in (one, *several))


def test_detached_inference_tensors_can_be_in_a_graph():
    with torch.inference_mode():
        outputs = [torch.ones(3), torch.ones(2)]
    learner = torch.randn(3, requires_grad=True)
    with pytest.raises(RuntimeError, match='[Ii]nference tensor'):
        (learner * outputs[0]).sum().backward()
    for tensor in (detach_source(outputs)[0], detach_source(outputs[0])):
        (learner * tensor).sum().backward()
        assert tensor.data_ptr() == outputs[0].data_ptr()  # shares memory
    assert learner.grad.tolist() == [2, 2, 2]


@pytest.mark.parametrize('form', [torch.contiguous_format, torch.channels_last])
def test_detached_inference_tensors_keep_their_memory_layout(form):
    with torch.inference_mode():
        outputs = torch.randn(2, 4, 3, 5).to(memory_format=form)[:, 1:]
    taken = detach_source(outputs)
    assert torch.equal(taken, outputs)
    assert (taken.stride(), taken.dtype) == (outputs.stride(), outputs.dtype)


def test_names_of_taps_and_projected_side():
    assert [tap_names(tap) for tap in (None, 'a', ('a', 'b'), ['a'])] == [
        (),
        ('a',),
        ('a', 'b'),
        ('a',),
    ]
    several = term(RecordingLoss(), source_tap=['a', 'b'], learner_tap='c')
    assert several.member_taps() == [('t', 'a'), ('t', 'b'), ('s', 'c')]
    assert term(RecordingLoss(), knowledge='predictions').member_taps() == []
    assert projector_side(nn.Identity()) == 'learner'
    assert projector_side(MODELS.build(dict(type='mmkdml.IdentityProjector', side='source'))) == (
        'source'
    )


@pytest.mark.parametrize('weight', [0.0, 0.5, 1.0, 2.0])
def test_member_losses_are_weighted_and_prefixed(weight):
    log = dict(loss=torch.tensor(3.0), loss_aux=[torch.tensor(1.0), torch.tensor(5.0)], acc=7)
    expected = {'a.loss': 3 * weight, 'a.loss_aux': [weight, 5 * weight], 'a.acc': 7}
    assert weight_losses('a', log, weight) == expected


@pytest.mark.parametrize(('truth', 'classifier'), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_extra_loss_inputs_are_labels_then_classifier(truth, classifier, tiny):
    member = MODELS.build(tiny.classifier())
    samples = tiny.class_samples(4)
    extra = term(RecordingLoss(truth, classifier)).extra_loss_inputs(
        ClassificationTask(), member, samples
    )
    assert len(extra) == truth + classifier
    if truth:
        assert extra[0].tolist() == [0, 1, 2, 0]
    if classifier:
        features = torch.randn(2, 32)
        assert torch.equal(extra[-1](features), member.head.fc(features))


def test_labels_are_not_read_if_the_loss_does_not_need_them():
    assert term(RecordingLoss()).extra_loss_inputs(SegmentationTask(), None, [object()]) == []


def test_labels_and_classifier_reach_the_loss_in_a_step(tiny):
    loss = RecordingLoss(truth=True, classifier=True)
    distiller = KnowledgeDistiller(
        members=dict(t=tiny.classifier(), s=tiny.classifier()),
        transfers=[Transfer('t', 's', 'features', 1.0, loss=loss)],
        input_size=tiny.size,
    )
    (tried,) = loss.calls
    assert len(tried) == 4
    distiller(tiny.images(), tiny.class_samples(), mode='loss')
    learner, source, truth, classifier = loss.calls[1]
    assert learner.requires_grad
    assert not source.requires_grad
    assert truth.tolist() == [0, 1, 2, 0]
    head = distiller.members['t'].head.fc
    assert torch.equal(classifier(learner.flatten(1)), head(learner.flatten(1)))


def test_several_taps_reach_the_loss_as_lists_in_order(tiny):
    loss = RecordingLoss()
    taps = dict(
        source_tap=['backbone.layer3', 'backbone.layer1'], learner_tap=['backbone.layer2', 'neck']
    )
    distiller = KnowledgeDistiller(
        members=dict(t=tiny.classifier(width=6), s=tiny.classifier()),
        transfers=[Transfer('t', 's', 'features', 1.0, loss=loss, **taps)],
        frozen=dict(t=None),
        input_size=tiny.size,
    )
    distiller(tiny.images(), tiny.class_samples(), mode='loss')
    for number, (learner, source) in zip((2, 4), loss.calls, strict=True):  # at build, in a step
        assert [tuple(tensor.shape) for tensor in learner] == [(number, 8, 4, 4), (number, 32)]
        assert [tuple(tensor.shape) for tensor in source] == [(number, 24, 2, 2), (number, 6, 8, 8)]
    assert all(tensor.requires_grad for tensor in learner)
    assert not any(tensor.requires_grad or tensor.is_inference() for tensor in source)


def test_loss_has_the_weight_of_the_transfer():
    learner = torch.randn(4, 3)
    losses = term(RecordingLoss())(torch.randn(4, 3), learner)
    assert losses.keys() == {'key'}
    assert torch.equal(losses['key'], 0.5 * learner.square().mean())


def test_discriminator_loss_has_its_own_key_and_weight():
    torch.manual_seed(0)
    loss = HolisticLoss(2, 2, width=4, discriminator_weight=0.25)
    learner, source = torch.randn(2, 2, 64, 64, requires_grad=True), torch.randn(2, 2, 64, 64)
    losses = term(loss, knowledge='predictions')(source, learner)
    assert losses.keys() == {'key', 'key.discriminator'}
    assert torch.equal(losses['key'], 0.5 * loss(learner, source))
    expected = 0.25 * loss.discriminator_loss(learner, source)
    assert torch.equal(losses['key.discriminator'], expected)
    # The learner is trained by one loss, the discriminator by the other.
    losses['key.discriminator'].backward(retain_graph=True)
    assert learner.grad is None
    assert any(parameter.grad.any() for parameter in loss.parameters())
    before = copy.deepcopy([parameter.grad for parameter in loss.parameters()])
    losses['key'].backward()
    assert learner.grad.any()
    assert all(torch.equal(p.grad, grad) for p, grad in zip(loss.parameters(), before, strict=True))


def test_discriminator_compares_projected_outputs():
    torch.manual_seed(0)
    loss = HolisticLoss(2, 2, width=4)
    learner, source = torch.randn(2, 3, 64, 64), torch.randn(2, 2, 64, 64)
    projector = nn.Conv2d(3, 2, 1)
    losses = term(loss, projector, knowledge='predictions')(source, learner)
    expected = 0.1 * loss.discriminator_loss(projector(learner), source)
    assert torch.equal(losses['key.discriminator'], expected)


def test_extra_inputs_follow_both_sides():
    loss = SRRLLoss(3, 2).eval()
    learner, source = torch.randn(4, 3), torch.randn(4, 2)
    classifier = nn.Linear(2, 5)
    found = term(loss)(source, learner, classifier)['key']
    assert torch.equal(found, 0.5 * loss(learner, source, classifier))
    with pytest.raises(TypeError, match='classifier'):
        term(loss)(source, learner)


@pytest.mark.parametrize(('side', 'sizes'), [('source', (8, 8)), ('learner', (5, 3))])
def test_resize_gives_both_sides_the_size_of_one(side, sizes):
    source, learner = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 5, 3, requires_grad=True)
    found = project(None, source, learner, side)
    originals = dict(source=source, learner=learner)
    for name, output in zip(originals, found, strict=True):
        if name == side:
            assert output is originals[name]
        else:
            expected = nn.functional.interpolate(
                originals[name], sizes, mode='bilinear', align_corners=False
            )
            assert torch.equal(output, expected)
    assert found[1].requires_grad


def test_resize_follows_the_projector():
    projector = MODELS.build(dict(type='mmkdml.LinearProjector', in_channels=3, out_channels=4))
    source, learner = torch.randn(2, 4, 8, 8), torch.randn(2, 3, 4, 4)
    found = project(projector, source, learner, 'source')
    expected = nn.functional.interpolate(projector(learner), (8, 8), mode='bilinear')
    assert torch.equal(found[1], expected)


@pytest.mark.parametrize(
    ('source', 'shapes'),
    [(torch.ones(2, 3), r'\(2, 3, 4, 4\) and \(2, 3\)'), ([torch.ones(2, 3, 4, 4)], r'\[\(2, 3')],
)
def test_only_single_maps_are_resized(source, shapes):
    with pytest.raises(ValueError, match=f'resize: expected one map.*{shapes}'):
        project(None, source, torch.ones(2, 3, 4, 4), 'source')
