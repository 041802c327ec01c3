import pytest
import torch
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, ResNet
from torch import nn

from mmkdml.models import ConvBlockNeck


@pytest.fixture
def neck():
    torch.manual_seed(0)
    return ConvBlockNeck(in_channels=6, out_channels=4)


def test_neck_is_convolution_norm_relu_and_mean(neck):
    block = neck.conv_block
    assert isinstance(block.conv, nn.Conv2d)
    assert block.conv.weight.shape == (4, 6, 1, 1)
    assert block.conv.bias is None
    maps = torch.randn(5, 6, 7, 7)
    mixed = torch.einsum('oi,nihw->nohw', block.conv.weight[:, :, 0, 0], maps)
    mean = mixed.mean((0, 2, 3), keepdim=True)
    variance = mixed.var((0, 2, 3), keepdim=True, unbiased=False)
    by_hand = torch.relu((mixed - mean) / (variance + block.bn.eps).sqrt())
    (pooled,) = neck((maps,))
    assert pooled.shape == (5, 4)
    torch.testing.assert_close(pooled, by_hand.mean((2, 3)))


def test_output_is_the_mean_of_the_shared_map(neck):
    maps = torch.randn(2, 6, 3, 5)
    neck.eval()
    torch.testing.assert_close(neck((maps,))[0], neck.conv_block(maps).mean((2, 3)))


def test_last_of_several_maps_is_used(neck):
    maps = (torch.randn(2, 3, 8, 8), torch.randn(2, 6, 4, 4))
    copies = [m.clone() for m in maps]
    neck.eval()
    assert torch.equal(neck(maps)[0], neck(maps[-1:])[0])
    assert all(torch.equal(a, b) for a, b in zip(maps, copies, strict=True))


def test_number_of_additional_parameters():
    backbone = dict(type=ResNet, depth=18, base_channels=8, stem_channels=8)
    plain = ImageClassifier(
        backbone=backbone,
        neck=dict(type=GlobalAveragePooling),
        head=dict(type=LinearClsHead, num_classes=2, in_channels=64),
    )
    teacher = ImageClassifier(
        backbone=backbone,
        neck=dict(type=ConvBlockNeck, in_channels=64, out_channels=32),
        head=dict(type=LinearClsHead, num_classes=2, in_channels=32),
    )
    assert teacher(torch.randn(2, 3, 64, 64)).shape == (2, 2)

    def count(network):
        return sum(p.numel() for p in network.parameters())

    # 64 x 32 weights and 2 x 32 of the norm; the classifier has 32 inputs fewer per class.
    assert count(teacher) - count(plain) == 64 * 32 + 2 * 32 - 2 * 32
