import copy
from types import SimpleNamespace

import torch
from mmengine.hooks import EMAHook
from mmpretrain.models import ImageClassifier
from mmpretrain.structures import DataSample
from torch import nn

from mmkdml.apis.fused_evaluation import FusedEvaluationHook, use_fused_step
from mmkdml.models.distillers import KnowledgeDistiller
from mmkdml.registry import HOOKS, MODELS


def classifier():
    torch.manual_seed(0)
    network = MODELS.build(
        dict(
            type='mmpretrain.ImageClassifier',
            backbone=dict(type='mmpretrain.ResNet', depth=18, stem_channels=4, base_channels=4),
            neck=dict(type='mmpretrain.GlobalAveragePooling'),
            head=dict(type='mmpretrain.LinearClsHead', num_classes=3, in_channels=32),
            data_preprocessor=dict(mean=[0] * 3, std=[255] * 3),
        )
    )
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_mean, -1, 1)
    network.train(False)
    return network


def batch():
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(256, (3, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return dict(inputs=list(images), data_samples=[DataSample() for _ in images])


@torch.no_grad()
def scores(step):
    return torch.stack([sample.pred_score for sample in step(batch())])


def test_network_is_fused_only_in_evaluations(monkeypatch):
    network, hook = classifier(), FusedEvaluationHook()
    runner = SimpleNamespace(model=network)
    for before, after, step in (
        (hook.before_val_epoch, hook.after_val_epoch, 'val_step'),
        (hook.before_test_epoch, hook.after_test_epoch, 'test_step'),
    ):
        expected = scores(getattr(network, step))
        before(runner)
        torch.testing.assert_close(scores(getattr(network, step)), expected, rtol=1e-5, atol=1e-6)
        with monkeypatch.context() as patched:
            patched.setattr(nn.BatchNorm2d, 'forward', None)
            scores(getattr(network, step))
        after(runner)
        assert step not in vars(network)
        with torch.no_grad():
            network.backbone.conv1.weight.data.mul_(-2)  # hidden from autograd, as in EMAHook


def test_copy_of_a_network_predicts_with_its_own_weights():
    network = classifier()
    use_fused_step(network)
    first = scores(network.test_step)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.head.fc.bias.add_(torch.arange(3.0))
    torch.testing.assert_close(scores(network.test_step), first)
    own = scores(other.test_step)
    assert (own - first).abs().max() > 0.1
    del other.test_step
    torch.testing.assert_close(own, scores(other.test_step), rtol=1e-5, atol=1e-6)


class OwnStep(ImageClassifier):
    def test_step(self, data):
        return ['own']


def test_other_networks_stay():
    own = classifier()
    own.__class__ = OwnStep
    for network in (nn.Linear(1, 1), own):
        use_fused_step(network)
        assert 'test_step' not in vars(network)
    assert own.test_step({}) == ['own']


def test_switch_for_single_networks():
    network, hook = classifier(), HOOKS.build(dict(type='FusedEvaluationHook', enabled=False))
    hook.before_test_epoch(SimpleNamespace(model=network))
    assert 'test_step' not in vars(network)


def test_classroom_predicts_with_its_own_weights_after_a_test_of_averaged_ones():
    classroom = KnowledgeDistiller(dict(a=classifier(), b=classifier()), []).eval()
    runner = SimpleNamespace(model=classroom, _load_from=None, _resume=False)
    average, hook = EMAHook(), FusedEvaluationHook()
    average.before_run(runner)
    with torch.no_grad():
        classroom.members['a'].backbone.conv1.weight.mul_(-2)

    def predicted():
        return scores(lambda data: [one.members.a for one in classroom.test_step(data)])

    own = predicted()
    for each in (average, hook):
        each.before_test_epoch(runner)
    classroom.eval()
    assert (own - predicted()).abs().max() > 1e-4
    for each in (average, hook):
        each.after_test_epoch(runner)
    torch.testing.assert_close(predicted(), own)
