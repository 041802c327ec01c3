import copy
from types import SimpleNamespace

import torch
from mmpretrain.structures import DataSample
from torch import nn

from mmkdml.apis.fused_evaluation import FusedEvaluationHook, use_fused_step
from mmkdml.registry import MODELS


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


def test_other_networks_stay():
    network = nn.Linear(1, 1)
    use_fused_step(network)
    assert 'test_step' not in vars(network)
