"""Grad-CAM of transformers; test_grad_cam.py has convolutional networks."""

import pytest
import torch
from mmpretrain.models import (
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    SwinTransformer,
    TimmClassifier,
    VisionTransformer,
    VisionTransformerClsHead,
)
from torch import nn

from mmkdml.analysis.cam_layers import choose_layer
from mmkdml.analysis.grad_cam import grad_cam
from mmkdml.models.tasks import task_of
from mmkdml.registry import MODELS

SIZE = 64
LOSS = dict(type='CrossEntropyLoss')
VIT = dict(img_size=SIZE, patch_size=8, embed_dim=24, depth=3, num_heads=2)
SWIN = dict(
    img_size=SIZE, patch_size=4, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2)
)


def timm_classifier(name, **options):
    return dict(type=TimmClassifier, model_name=name, num_classes=3, loss=LOSS, **options)


NETWORKS = {
    'class token': (timm_classifier('vit_tiny_patch16_224', **VIT), 'model.blocks.1', 8),
    'mean of tokens': (
        timm_classifier('vit_tiny_patch16_224', class_token=False, global_pool='avg', **VIT),
        'model.blocks.2',
        8,
    ),
    'channels last': (timm_classifier('swin_tiny_patch4_window7_224', **SWIN), 'model.layers.1', 8),
    'mmpretrain': (
        dict(
            type=ImageClassifier,
            backbone=dict(
                type=VisionTransformer,
                arch=dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48),
                img_size=SIZE,
                patch_size=8,
            ),
            head=dict(type=VisionTransformerClsHead, num_classes=3, in_channels=24),
        ),
        'backbone.layers.1',
        8,
    ),
    'swin of mmpretrain': (
        dict(
            type=ImageClassifier,
            backbone=dict(
                type=SwinTransformer,
                arch=dict(embed_dims=8, depths=[1] * 4, num_heads=[1] * 4),
                img_size=SIZE,
                patch_size=2,
                window_size=4,
            ),
            neck=dict(type=GlobalAveragePooling),
            head=dict(type=LinearClsHead, num_classes=3, in_channels=64),
        ),
        'backbone.stages.2.blocks.0',
        8,
    ),
}


@pytest.mark.parametrize('kind', NETWORKS)
def test_layer_and_map_of_transformers(kind):
    torch.manual_seed(0)
    config, layer, side = NETWORKS[kind]
    member = MODELS.build(config).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    found = choose_layer(member, task_of({'one': member}), (SIZE, SIZE))
    assert found.startswith(layer)
    cam = grad_cam(member, images, torch.tensor([0, 2]))
    assert cam.shape == (2, side, side)
    assert cam.any()
    assert not any(p.grad is not None for p in member.parameters())


def test_tokens_of_images_with_four_channels():
    config, layer, _ = NETWORKS['class token']
    member = MODELS.build(dict(config, in_chans=4)).eval()
    assert choose_layer(member, task_of({'one': member}), (SIZE, SIZE)).startswith(layer)


def test_map_of_tokens_matches_the_sum_by_hand():
    torch.manual_seed(0)
    member = MODELS.build(NETWORKS['mean of tokens'][0]).eval()
    network, images = member.model, torch.randn(2, 3, SIZE, SIZE)
    network.fc_norm, network.norm = nn.Identity(), nn.Identity()
    # logit_k = W_k mean(tokens), so its gradient at each of the 64 tokens is W_k / 64.
    with torch.no_grad():
        tokens = network.forward_features(images)
    classes = torch.tensor([1, 2])
    rows = network.head.weight.detach()[classes]
    expected = (torch.einsum('nc,nlc->nl', rows, tokens) / 64).relu().reshape(2, 8, 8)
    torch.testing.assert_close(grad_cam(member, images, classes, 'model.blocks.2'), expected)


def test_vector_is_refused():
    member = MODELS.build(NETWORKS['class token'][0])
    with pytest.raises(
        ValueError, match=r'Invalid layer model.head: .*tokens of a grid, got \(1, 3'
    ):
        grad_cam(member, torch.zeros(1, 3, SIZE, SIZE), torch.tensor([0]), 'model.head')
