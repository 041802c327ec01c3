import pytest
import timm
import torch
from torch import nn

from mmkdml.models.layouts import Layout, layout_of
from mmkdml.models.taps import TapRecorder

VIT = dict(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=2, num_classes=3)
SWIN = dict(img_size=32, patch_size=2, window_size=4, embed_dim=8, depths=(1, 1), num_heads=(1, 2))
TRANSFORMERS = {
    'class token': ('vit_tiny_patch16_224', VIT),
    'distillation token': ('deit_tiny_distilled_patch16_224', VIT),
    'registers': ('vit_small_patch14_reg4_dinov2', VIT),
    'no prefix': ('vit_tiny_patch16_224', dict(VIT, class_token=False, global_pool='avg')),
    'swin': ('swin_tiny_patch4_window7_224', SWIN),
}


def images(size=(32, 32)):
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('kind', TRANSFORMERS)
def test_maps_equal_those_of_timm(kind):
    torch.manual_seed(0)
    name, options = TRANSFORMERS[kind]
    network = timm.create_model(name, **options).eval()
    taps = [stage['module'] for stage in network.feature_info]
    with torch.no_grad(), TapRecorder(network, taps) as recorded:
        network(images())
    expected = network.forward_intermediates(
        images(), indices=len(taps), output_fmt='NCHW', intermediates_only=True
    )
    for tap, reference in zip(taps, expected, strict=True):
        layout = layout_of(network, tap, (1, *recorded[tap].shape[1:]), (32, 32))
        torch.testing.assert_close(layout.to_map(recorded[tap]), reference, rtol=0, atol=0)
        assert layout.map_shape((2, *recorded[tap].shape[1:])) == reference.shape


def test_normalized_tokens_equal_the_features_of_timm():
    torch.manual_seed(0)
    network = timm.create_model('vit_small_patch14_reg4_dinov2', **VIT).eval()
    with torch.no_grad(), TapRecorder(network, ['norm']) as taps:
        features = network.forward_features(images())
    found = layout_of(network, 'norm', (1, 21, 24), (32, 32)).to_map(taps['norm'])
    (reference,) = network.get_intermediate_layers(images(), n=1, reshape=True, norm=True)
    assert torch.equal(found, reference)
    assert torch.equal(found.flatten(2).mT, features[:, network.num_prefix_tokens :])


def declaring(**attributes):
    network = nn.Sequential(nn.Sequential(nn.Identity()))
    for name, value in attributes.items():
        setattr(network[0], name, value)
    return network


@pytest.mark.parametrize(
    ('declared', 'shape', 'size', 'expected'),
    [
        ({}, (1, 197, 192), (224, 224), Layout('tokens', (14, 14), 1)),
        ({}, (1, 196, 192), (224, 224), Layout('tokens', (14, 14))),
        ({}, (1, 201, 192), (224, 224), Layout('tokens', (14, 14), 5)),
        ({}, (1, 25, 8), (64, 96), Layout('tokens', (4, 6), 1)),
        (dict(num_prefix_tokens=5), (1, 9, 8), (36, 36), Layout('tokens', (2, 2), 5)),
        ({}, (1, 9, 8), (36, 36), Layout('tokens', (3, 3))),
        (dict(num_extra_tokens=2), (1, 18, 8), (32, 32), Layout('tokens', (4, 4), 2)),
        (dict(num_extra_tokens=2), (1, 16, 8), (32, 32), Layout('tokens', (4, 4))),
        (dict(with_cls_token=True), (1, 17, 8), (32, 32), Layout('tokens', (4, 4), 1)),
        ({}, (1, 49, 8), (50, 50), Layout('tokens', (7, 7))),  # rounded up, as with padding
        ({}, (1, 7, 7, 768), (224, 224), Layout('channels_last', (7, 7))),
        ({}, (1, 768, 7, 7), (224, 224), Layout('map', (7, 7))),
        ({}, (1, 768, 1, 1), (224, 224), Layout('map', (1, 1))),
        ({}, (1, 15, 15, 15), (33, 33), Layout('map', (15, 15))),
        (dict(output_fmt='NHWC'), (1, 8, 8, 8), (32, 32), Layout('channels_last', (8, 8))),
        (dict(output_fmt='NHWC'), (1, 24, 8, 8), (32, 32), Layout('map', (8, 8))),
        ({}, (1, 64, 8, 12), (64, 96), Layout('map', (8, 12))),
        ({}, (1, 8, 12, 64), (64, 96), Layout('channels_last', (8, 12))),
        ({}, (1, 64), (32, 32), None),
        ({}, (4, 49, 96), (224, 224), None),  # windows of an image
    ],
)
def test_layout_is_inferred_from_shape_and_network(declared, shape, size, expected):
    assert layout_of(declaring(**declared), '0.0', shape, size) == expected


def test_tokens_of_another_image_size():
    layout = Layout('tokens', (4, 6), 1)
    x = torch.arange(2 * (8 * 12 + 1) * 3.0).reshape(2, 97, 3)
    found = layout.to_map(x)
    assert found.shape == (2, 3, 8, 12)
    assert torch.equal(found[1, :, 5, 7], x[1, 1 + 5 * 12 + 7])


@pytest.mark.parametrize('length', [1, 3, 27, 97])
def test_tokens_that_are_no_grid_raise(length):
    with pytest.raises(ValueError, match=rf'1 prefix tokens .* ratio 4:4, got {length} tokens'):
        Layout('tokens', (4, 4), 1).to_map(torch.zeros(2, length, 3))


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(kind='nhwc', grid=(2, 2)), "map, tokens, channels_last, got 'nhwc'"),
        (dict(kind='tokens', grid=(2, 0)), r'at least 1, got \(2, 0\)'),
        (dict(kind='tokens', grid=(2, 2), prefix_tokens=-1), 'at least 0, got -1'),
    ],
)
def test_invalid_layouts_raise(arguments, message):
    with pytest.raises(ValueError, match=message):
        Layout(**arguments)
    with pytest.raises(ValueError, match=r'4 dimensions \(channels_last\), got \(2, 3\)'):
        Layout('channels_last', (2, 2)).to_map(torch.zeros(2, 3))
