"""Oracles: mmdet's focal loss in PyTorch, autograd, and the definition of NMS."""

import sys

import mmcv.ops
import pytest
import torch
from mmcv.ops.focal_loss import sigmoid_focal_loss

import mmkdml.compat
from mmkdml import operators
from mmkdml.functional.nms import non_maximum_suppression

pytestmark = pytest.mark.skipif(
    not isinstance(sys.modules['mmcv._ext'], operators.MissingModule),
    reason='mmcv has its own operators here',
)


def random_boxes(count=50):
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(count, 2, generator=generator) * 20
    boxes = torch.cat([corners, corners + torch.rand(count, 2, generator=generator) * 9], 1)
    return boxes, torch.rand(count, generator=generator)


@pytest.mark.parametrize('offset', [0, 1])
def test_nms_of_mmcv(offset):
    boxes, scores = random_boxes()
    kept = non_maximum_suppression(boxes, scores, 0.3, offset)
    assert 1 < len(kept) < len(boxes)
    rows, indices = mmcv.ops.nms(boxes, scores, 0.3, offset=offset)
    assert torch.equal(indices, kept)
    assert torch.equal(rows, torch.cat([boxes[kept], scores[kept, None]], 1))


def test_nms_of_torchvision_is_preferred(monkeypatch):
    boxes, scores = random_boxes()
    calls = []

    def fake(*args):
        calls.append(args)
        return torch.tensor([7])

    monkeypatch.setattr(torch.ops.torchvision, 'nms', fake)
    assert operators.nms(boxes, scores, 0.3).tolist() == [7]
    assert len(calls) == 1
    assert operators.nms(boxes, scores, 0.3, 1).tolist() != [7]  # torchvision has no offset


def test_nms_without_an_operator_for_the_device(monkeypatch):
    boxes, scores = random_boxes()

    def fake(*args):
        raise NotImplementedError("Could not run 'torchvision::nms' with the 'CUDA' backend")

    monkeypatch.setattr(torch.ops.torchvision, 'nms', fake)
    expected = non_maximum_suppression(boxes, scores, 0.3)
    assert torch.equal(operators.nms(boxes, scores, 0.3), expected)


@pytest.mark.skipif(
    mmkdml.compat._declared is None, reason='torchvision has its own operators here'
)
def test_declared_operator_of_torchvision():
    boxes, scores = random_boxes()
    expected = non_maximum_suppression(boxes, scores, 0.3)
    assert torch.equal(torch.ops.torchvision.nms(boxes, scores, 0.3), expected)
    boxes.requires_grad_()
    assert torch.equal(torch.ops.torchvision.nms(boxes, scores, 0.3), expected)


@pytest.mark.skipif(
    mmkdml.compat._declared is None, reason='torchvision has its own operators here'
)
def test_declared_operator_of_torchvision_is_exported_as_one_operator():
    class Network(torch.nn.Module):
        def forward(self, boxes, scores):
            return boxes[torch.ops.torchvision.nms(boxes, scores, 0.3)]

    inputs = random_boxes()
    exported = torch.export.export(Network(), inputs)
    assert torch.ops.torchvision.nms.default in {node.target for node in exported.graph.nodes}
    assert torch.equal(exported.module()(*inputs), Network()(*inputs))


def mmdet_focal_loss(logits, target, gamma, alpha):
    from mmdet.models.losses.focal_loss import py_sigmoid_focal_loss

    hot = torch.nn.functional.one_hot(target, logits.shape[1] + 1)[:, :-1]
    return py_sigmoid_focal_loss(logits, hot, gamma=gamma, alpha=alpha, reduction='none')


@pytest.mark.parametrize(('gamma', 'alpha'), [(2.0, 0.25), (0.0, 0.5), (1.5, 0.9), (0.5, 1.0)])
def test_focal_loss_and_gradient_equal_those_of_mmdet(gamma, alpha):
    pytest.importorskip('mmdet')
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(30, 5, generator=generator, dtype=torch.float64) * 4).requires_grad_()
    target = torch.randint(6, (30,), generator=generator)  # 5: background
    weights = torch.rand(30, 5, generator=generator, dtype=torch.float64)
    expected = mmdet_focal_loss(logits, target, gamma, alpha)
    (expected_gradient,) = torch.autograd.grad((expected * weights).sum(), logits)
    loss = sigmoid_focal_loss(logits, target, gamma, alpha, None, 'none')
    (gradient,) = torch.autograd.grad((loss * weights).sum(), logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize('reduction', ['mean', 'sum'])
def test_gradient_of_focal_loss_is_numerically_right(reduction):
    """With weights of classes, which mmdet does not use."""
    logits = torch.linspace(-3, 3, 12, dtype=torch.float64).view(4, 3).requires_grad_()
    target, weight = torch.tensor([0, 2, 1, 1]), torch.tensor([0.5, 1, 3], dtype=torch.float64)
    for weights in (weight, None):
        assert torch.autograd.gradcheck(
            lambda x, w=weights: sigmoid_focal_loss(x, target, 2.0, 0.25, w, reduction), logits
        )
    rows = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    weighted = sigmoid_focal_loss(logits, target, 2.0, 0.25, weight, 'none')
    torch.testing.assert_close(weighted, rows * weight[target][:, None])


@pytest.mark.parametrize('size', [90.0, 1e4])
def test_focal_loss_of_extreme_logits_is_finite(size):
    logits = torch.tensor([[size, -size]], requires_grad=True)
    loss = sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, 'none')
    torch.testing.assert_close(loss, torch.tensor([[0.75, 0.25]]) * size)  # -log sigmoid(-x) = x
    loss.sum().backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.75, -0.25]]))


def test_focal_loss_in_half_precision_is_rounded_only_once():
    logits = torch.linspace(-8, 8, 40).view(20, 2).half()
    target = torch.arange(20) % 3
    loss = sigmoid_focal_loss(logits, target, 2.0, 0.25, None, 'none')
    exact = sigmoid_focal_loss(logits.float(), target, 2.0, 0.25, None, 'none')
    assert torch.equal(loss, exact.half())


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('deform_conv_forward', 'deformable convolution, as in VFNet, TOOD and RepPoints'),
        ('modulated_deform_conv_forward', 'DCNv2.*Use another network, or build mmcv'),
        ('ms_deform_attn_forward', 'Deformable DETR'),
        ('roi_align_forward', r'as in Faster R-CNN: expected.*use_torchvision=True'),
        ('psamask_forward', 'operator psamask_forward of mmcv, needed for this network'),
    ],
)
def test_other_operators_raise_when_called(name, message):
    operator = getattr(operators.mmcv_operators(), name)
    with pytest.raises(RuntimeError, match=message):
        operator(1, stride=2)


def test_missing_operator_is_named_by_its_layer():
    layer = mmcv.ops.DeformConv2d(1, 1, 3, padding=1)
    with pytest.raises(RuntimeError, match='deform_conv_forward.*VFNet'):
        layer(torch.ones(1, 1, 4, 4), torch.zeros(1, 18, 4, 4))


def test_report_of_the_environment():
    from mmcv.utils.env import collect_env

    assert collect_env()['MMCV Compiler'] == 'n/a'


def test_private_attributes_do_not_exist():
    assert not hasattr(operators.mmcv_operators(), '__wrapped__')
