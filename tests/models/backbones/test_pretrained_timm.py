import os
import socket

import pytest
import timm
import timm.models._builder as timm_builder
import torch

from mmkdml.models import PretrainedTIMMBackbone

TINY = 'test_efficientnet'  # timm's network for tests; feature maps do not need its head


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    torch.manual_seed(0)

    def refuse(*args, **kwargs):
        raise AssertionError('the network was asked')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(timm_builder, 'load_state_dict_from_hf', refuse)
    monkeypatch.setattr(timm_builder, 'load_state_dict_from_url', refuse)


@pytest.fixture
def loads(monkeypatch):
    """Count calls of timm's loader."""
    calls = []
    monkeypatch.setattr(
        timm.models,
        'load_pretrained',
        lambda *args, **kwargs: (calls.append(args), timm_builder.load_pretrained(*args, **kwargs)),
    )
    return calls


@pytest.fixture
def source():
    """Classifier of timm with its head, like in files of weights."""
    return timm.create_model(TINY, pretrained=False).eval()


def saved(weights, path):
    torch.save(weights, path)
    return str(path)


def backbone(file=None, **kwargs):
    overlay = dict() if file is None else dict(pretrained_cfg_overlay=dict(file=file))
    network = PretrainedTIMMBackbone(TINY, pretrained=True, **overlay, **kwargs)
    network.eval()
    return network


@pytest.mark.parametrize('features_only', [False, True])
def test_build_and_forward_need_no_internet(features_only):
    network = PretrainedTIMMBackbone(
        'mobilenetv1_100', pretrained=True, features_only=features_only
    )
    network.eval()
    maps = network(torch.randn(1, 3, 64, 64))
    assert maps[-1].shape == (1, 1024, 2, 2)
    assert not network.is_init


def test_init_weights_downloads_from_the_hub():
    with pytest.raises(AssertionError, match='the network was asked'):
        backbone().init_weights()


def test_without_pretrained_nothing_is_loaded(loads):
    network = PretrainedTIMMBackbone(TINY)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.init_weights()
    assert not loads
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize('wrap', [lambda w: w, lambda w: dict(state_dict=w)])
def test_local_file_sets_the_weights(tmp_path, source, wrap):
    network = backbone(saved(wrap(source.state_dict()), tmp_path / 'weights.pth'))
    network.init_weights()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images)[-1], source.forward_features(images))


def test_local_file_sets_the_weights_with_features_only(tmp_path, source):
    network = backbone(
        saved(source.state_dict(), tmp_path / 'weights.pth'),
        features_only=True,
        out_indices=(0, 1, 2, 3, 4),
    )
    network.init_weights()
    images = torch.randn(2, 3, 64, 64)
    maps = network(images)
    assert [64 // m.shape[2] for m in maps] == [2, 4, 8, 16, 32]
    theirs = source.forward_intermediates(images, intermediates_only=True)
    for ours_map, theirs_map in zip(maps, theirs, strict=True):
        torch.testing.assert_close(ours_map, theirs_map)


def test_weights_are_loaded_once(tmp_path, source, loads):
    network = backbone(saved(source.state_dict(), tmp_path / 'weights.pth'))
    network.init_weights()
    trained = torch.zeros_like(network.timm_model.conv_stem.weight)
    network.timm_model.conv_stem.weight.data.copy_(trained)
    network.init_weights()
    assert len(loads) == 1
    assert torch.equal(network.timm_model.conv_stem.weight, trained)


def test_first_convolution_is_adapted_to_gray_images(tmp_path, source):
    network = backbone(saved(source.state_dict(), tmp_path / 'weights.pth'), in_channels=1)
    network.init_weights()
    torch.testing.assert_close(
        network.timm_model.conv_stem.weight, source.conv_stem.weight.sum(1, keepdim=True)
    )


def test_files_without_num_batches_tracked_are_loaded(tmp_path, source):
    weights = {
        key: value
        for key, value in source.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }
    network = backbone(saved(weights, tmp_path / 'weights.pth'))
    network.init_weights()
    assert torch.equal(network.timm_model.conv_stem.weight, source.conv_stem.weight)


def foreign(weights):
    return {f'another.{key}': value for key, value in weights.items()}


def shortened(weights):
    return {key: value for key, value in weights.items() if key != 'bn1.weight'}


def reshaped(weights):
    return dict(weights, **{'bn1.weight': torch.ones(3)})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (foreign, r'keys are missing: conv_stem\.weight, .*\.\.\.$'),
        (shortened, r': 1 of \d+ keys are missing: bn1\.weight$'),
        (reshaped, r'size mismatch for bn1\.weight'),
    ],
)
@pytest.mark.parametrize('features_only', [False, True])
def test_file_that_does_not_fit_raises(tmp_path, source, change, message, features_only):
    file = saved(change(source.state_dict()), tmp_path / 'weights.pth')
    network = backbone(file, features_only=features_only)
    with pytest.raises(ValueError, match='weights of test_efficientnet at .*weights.pth') as error:
        network.init_weights()
    assert error.match(message)
    assert not network.is_init


def test_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match='no file of pretrained weights at .*gone.pth'):
        backbone(str(tmp_path / 'gone.pth')).init_weights()


def test_network_without_published_weights_raises():
    network = PretrainedTIMMBackbone(
        TINY, pretrained=True, pretrained_cfg_overlay=dict(hf_hub_id=None, url=None)
    )
    with pytest.raises(ValueError, match='No pretrained weights exist for test_efficientnet'):
        network.init_weights()


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_file_does_not_run(tmp_path, source):
    trace = tmp_path / 'executed'
    weights = dict(source.state_dict(), extra=Malicious(str(trace)))
    network = backbone(saved(weights, tmp_path / 'weights.pth'))
    with pytest.raises(ValueError, match=r'weights .* at .*weights\.pth: weights_only'):
        network.init_weights()
    assert not trace.exists()


def test_path_as_pretrained_raises():
    with pytest.raises(TypeError, match=r'True or False, got \'weights.pth\'.*pretrained_cfg_over'):
        PretrainedTIMMBackbone(TINY, pretrained='weights.pth')
