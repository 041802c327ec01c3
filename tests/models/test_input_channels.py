import pytest
import torch
from mmengine.runner import CheckpointLoader
from mmpretrain.models import ResNet
from timm.models import adapt_input_conv
from torch import nn

from mmkdml.models import PretrainedTIMMBackbone, StemResNet
from mmkdml.models.checkpoints import load_network
from mmkdml.models.input_channels import (
    channels_and_source,
    input_channel_advice,
    input_channels,
    possible_input_channels,
)

WIDTHS = dict(depth=18, base_channels=4, stem_channels=4)


class Preprocessed(nn.Sequential):
    """Network with a preprocessor that normalizes some channels."""

    def __init__(self, *layers, mean):
        super().__init__(*layers)
        self.data_preprocessor = nn.Module()
        self.data_preprocessor.register_buffer('mean', torch.zeros(mean, 1, 1))


@pytest.mark.parametrize(
    ('network', 'channels'),
    [
        (nn.Sequential(nn.Conv2d(4, 8, 3), nn.Conv2d(8, 8, 3)), [4, 3]),
        (nn.Sequential(nn.Conv2d(3, 8, 3)), [3]),
        (nn.Linear(5, 2), [3]),
        (Preprocessed(nn.PixelUnshuffle(4), nn.Conv2d(64, 8, 3), mean=4), [64, 4, 3]),
        (Preprocessed(nn.Conv2d(2, 8, 3), mean=1), [2, 3]),  # one mean for all channels
        (Preprocessed(nn.Linear(5, 2), mean=13), [3, 13]),
    ],
)
def test_channels_of_the_first_convolution_then_of_the_mean(network, channels):
    assert possible_input_channels(network) == channels
    assert input_channels(network) == channels[0]


@pytest.fixture
def rgb_file(tmp_path):
    torch.manual_seed(0)
    network = ResNet(**WIDTHS)
    torch.save(dict(state_dict=network.state_dict(), meta=dict(epoch=1)), tmp_path / 'rgb.pth')
    return tmp_path / 'rgb.pth', network


@pytest.mark.parametrize('channels', [1, 2, 4, 6, 13])
def test_only_first_layer_is_adapted_as_by_timm(rgb_file, channels):
    path, rgb = rgb_file
    content = CheckpointLoader.load_checkpoint(f'in_chans={channels}:{path}', 'cpu')
    assert content['meta'] == dict(epoch=1)
    weights, expected = content['state_dict'], rgb.state_dict()
    first = adapt_input_conv(channels, expected['conv1.weight'])
    assert weights['conv1.weight'].shape == (4, channels, 7, 7)
    for key, value in expected.items():
        assert torch.equal(weights[key], first if key == 'conv1.weight' else value)


def test_equal_channels_give_equal_outputs(rgb_file):
    # One channel is the gray image; six channels are the RGB image twice.
    path, rgb = rgb_file
    rgb.eval()
    gray, color = torch.randn(2, 1, 32, 32), torch.randn(2, 3, 32, 32)
    for channels, image, same in ((1, gray, gray.repeat(1, 3, 1, 1)), (6, None, color)):
        image = color.repeat(1, 2, 1, 1) if image is None else image
        init_cfg = dict(type='Pretrained', checkpoint=f'in_chans={channels}:{path}')
        network = ResNet(**WIDTHS, in_channels=channels, init_cfg=init_cfg)
        network.init_weights()
        network.eval()
        torch.testing.assert_close(network(image)[0], rgb(same)[0])


def test_weights_are_only_adapted_when_asked_for(rgb_file):
    path, rgb = rgb_file
    init_cfg = dict(type='Pretrained', checkpoint=f'in_chans=4:{path}')
    message = r'conv1.weight: expected shape \(4, 4, 7, 7\), got \(4, 3, 7, 7\).*in_chans=4:FILE'
    with pytest.raises(ValueError, match=message):
        load_network(StemResNet(**WIDTHS, in_channels=4), path, 'teacher')
    wanted = StemResNet(**WIDTHS, in_channels=4, init_cfg=init_cfg)
    wanted.init_weights()
    assert torch.equal(wanted.conv1.weight, adapt_input_conv(4, rgb.conv1.weight))


def test_timm_weights_are_adapted_to_in_channels(tmp_path):
    def backbone(channels, **options):
        name = 'mobilenetv3_small_050'
        return PretrainedTIMMBackbone(name, in_channels=channels, **options)

    rgb = backbone(3).timm_model
    torch.save(rgb.state_dict(), tmp_path / 'rgb.pth')
    overlay = dict(file=str(tmp_path / 'rgb.pth'))
    adapted = backbone(2, pretrained=True, pretrained_cfg_overlay=overlay)
    adapted.init_weights()
    expected = adapt_input_conv(2, rgb.conv_stem.weight)
    assert torch.equal(adapted.timm_model.conv_stem.weight, expected)


@pytest.mark.parametrize(
    'name', ['in_chans=4', 'in_chans=:a.pth', 'in_chans=0:a.pth', 'in_chans=4:']
)
def test_invalid_form_raises(name):
    with pytest.raises(ValueError, match=f'checkpoint {name!r}: expected .in_chans=<channels>'):
        channels_and_source(name)


def test_weights_without_rgb_convolution_raise(tmp_path):
    torch.save(nn.Conv2d(5, 2, 3).state_dict(), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=r'x.pth does not fit in_chans=4.*3 input channels'):
        CheckpointLoader.load_checkpoint(f'in_chans=4:{tmp_path / "x.pth"}')
    assert channels_and_source('a.pth') == (None, 'a.pth')


def test_advice_only_for_weights_that_differ_in_the_images():
    def weights(*shape):
        return dict(a=torch.zeros(*shape), b=torch.zeros(2))

    assert 'in_chans=4:FILE' in input_channel_advice(weights(8, 4, 3, 3), weights(8, 3, 3, 3))
    for other in (
        weights(8, 5, 3, 3),
        weights(8, 3, 5, 5),
        weights(9, 3, 3, 3),
        weights(8, 4, 3, 3),
    ):
        assert input_channel_advice(weights(8, 4, 3, 3), other) == ''
    assert input_channel_advice(weights(8, 4, 3, 3), dict(b=torch.zeros(3))) == ''
