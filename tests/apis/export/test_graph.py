import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.config import ConfigDict
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead
from mmpretrain.models.backbones.resnet import BasicBlock
from mmseg.models import EncoderDecoder
from scipy.special import expit, softmax
from torch import nn

from mmkdml.apis import load_config
from mmkdml.apis.export import graph
from mmkdml.apis.export.checks import framework_answers
from mmkdml.apis.export.source import load_source
from mmkdml.inspection import inspect_config
from mmkdml.models import BinaryLinearClsHead, StemResNet, UNetHead
from mmkdml.models.ensembles import ENSEMBLES

CONFIGS = Path(__file__).parents[3] / 'configs' / 'demo'
MEAN, STD = (
    np.array(v).reshape(3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
)


class OneConvolution(nn.Conv2d):
    """A backbone that is exported in no time."""

    def forward(self, inputs):
        return (super().forward(inputs).relu(),)


class ShortResNet(StemResNet):
    """Each stage is one block, which halves the time to export."""

    arch_settings = {18: (BasicBlock, (1, 1, 1, 1))}


def random_source(folder, config, what, options=None):
    torch.manual_seed(0)
    config = load_config(CONFIGS / f'{config}.py', options)
    inspection = inspect_config(config)
    torch.save((inspection.distiller or inspection.members['model']).state_dict(), folder / 'x.pth')
    return load_source(config, folder / 'x.pth', what, (64, 64))


@pytest.fixture(scope='module')
def classroom(tmp_path_factory):
    return random_source(tmp_path_factory.mktemp('classifiers'), 'kdml_v3_demo_slices', 'ensemble')


def of(source, ensemble, *networks):
    """A source with these networks in place of its students."""
    torch.manual_seed(0)
    members = {f'student_{place}': network().eval() for place, network in enumerate(networks, 1)}
    return dataclasses.replace(source, members=members, ensemble=ENSEMBLES[ensemble])


def classifier(head, width=8, backbone=None):
    network = ImageClassifier(
        backbone or OneConvolution(3, width, 3, stride=2),
        GlobalAveragePooling(),
        head(in_channels=width),
    )
    nn.init.normal_(network.head.fc.weight, std=3 * (8 / width) ** 0.5)
    return network


def seven_classes(in_channels):
    return LinearClsHead(num_classes=7, in_channels=in_channels)


def seven():
    return classifier(seven_classes)


def mobilenet():
    return classifier(seven_classes, 1024, dict(type='TIMMBackbone', model_name='mobilenetv1_100'))


def binary():
    return classifier(BinaryLinearClsHead)


def unet():
    head = dict(type=UNetHead, in_channels=[8], widths=[8], num_classes=2, out_channels=1)
    backbone = dict(
        type=OneConvolution, in_channels=3, out_channels=8, kernel_size=3, stride=2, padding=1
    )
    network = EncoderDecoder(backbone, head, test_cfg=ConfigDict(mode='whole'))
    nn.init.normal_(network.decode_head.conv_seg.weight)
    return network


@pytest.fixture(scope='module')
def unets(tmp_path_factory):
    return random_source(tmp_path_factory.mktemp('unets'), 'kdml_v3_demo', 'ensemble')


def pixels(*shape):
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize('name', ENSEMBLES)
def test_pixels_to_answer_step_by_step(unets, name):
    network = graph.ExportedNetwork(unets)
    network.ensemble = ENSEMBLES[name]
    images = pixels(2, 3, 64, 96)
    scores, labels = graph.network_answers(network)(images)
    inputs = torch.from_numpy((images - MEAN) / STD).float()
    with torch.inference_mode():
        one, two = (
            torch.sigmoid(member.decode_head(member.backbone(inputs))).numpy()
            for member in unets.members.values()
        )
    votes = (one > 0.5).astype(int) + (two > 0.5)
    expected = dict(
        max=np.maximum(one, two), union=np.maximum(one, two), mean=(one + two) / 2, vote=votes / 2
    )[name]
    assert scores.dtype == np.float32
    assert labels.dtype == np.int64
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    mask = (one + two > 1) if name in ('mean', 'vote') else (one > 0.5) | (two > 0.5)
    if name == 'vote':
        mask = (votes == 2) | ((votes == 1) & mask)
    assert (labels != mask[:, 0]).mean() < 1e-3


def test_networks_of_bgr_images_get_them(tmp_path):
    sources = [
        random_source(
            tmp_path, 'student_demo_slices', 'model', {'model.data_preprocessor.to_rgb': to_rgb}
        )
        for to_rgb in (True, False)
    ]
    images = pixels(2, 3, 64, 64)
    rgb, bgr = (graph.network_answers(graph.ExportedNetwork(source)) for source in sources)
    # The same weights, mean and deviation: the order of channels alone differs.
    np.testing.assert_array_equal(rgb(images)[0], bgr(images[:, ::-1].copy())[0])
    assert not np.allclose(rgb(images)[0], bgr(images)[0])


def logits_of(source, images):
    inputs = torch.from_numpy((images - MEAN) / STD).float()
    with torch.inference_mode():
        return np.stack([member(inputs).numpy() for member in source.members.values()])


@pytest.mark.parametrize('name', ['max', 'mean', 'vote'])
def test_classes_step_by_step(classroom, name):
    source = of(classroom, name, seven, seven)
    images = np.tile(pixels(40, 3, 1, 1), (64, 64))  # each of one colour
    scores, labels = graph.network_answers(graph.ExportedNetwork(source))(images)
    one, two = softmax(logits_of(source, images), axis=2)
    votes = (one.argmax(1)[:, None] == range(7)) * 0.5 + (two.argmax(1)[:, None] == range(7)) * 0.5
    expected = dict(max=np.maximum(one, two), mean=(one + two) / 2, vote=votes)[name]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    winner = expected + (one + two) * (name == 'vote') / 100  # which decides between equal votes
    np.testing.assert_array_equal(labels, winner.argmax(1))
    assert len(set(labels.tolist())) > 1


def test_one_logit_is_two_classes(classroom):
    source = of(classroom, 'mean', binary, binary)
    images = np.tile(pixels(40, 3, 1, 1), (64, 64))
    scores, labels = graph.network_answers(graph.ExportedNetwork(source))(images)
    positive = expit(logits_of(source, images)).mean(axis=0)
    np.testing.assert_allclose(scores, np.hstack([1 - positive, positive]), atol=1e-5)
    np.testing.assert_array_equal(labels, positive[:, 0] > 0.5)
    assert 0 < labels.sum() < 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ('networks', 'ensemble', 'shape'),
    [
        ((mobilenet, seven), 'max', (7,)),
        ((seven, seven, seven), 'vote', (7,)),
        ((binary, binary), 'mean', (2,)),
        ((unet, unet), 'union', (1, 64, 64)),
    ],
)
def test_a_classroom_in_one_file(networks, ensemble, shape, classroom, unets, tmp_path):
    source = of(unets if unet in networks else classroom, ensemble, *networks)
    program = graph.export_program(graph.ExportedNetwork(source), source)
    graph.write_onnx(program, tmp_path / 'x.onnx')
    torch.export.save(program, tmp_path / 'x.pt2')
    framework = framework_answers(source)
    for answers in [graph.file_answers(tmp_path / name) for name in ('x.onnx', 'x.pt2')]:
        for number in (1, 3):
            images = pixels(number, 3, 64, 64)
            scores, labels = framework(images)
            ours = answers(images)
            assert ours[0].shape == (number, *shape)
            assert ours[0].std() > 0.01
            np.testing.assert_allclose(ours[0], scores, atol=1e-5)
            assert (ours[1] != labels).mean() < 1e-3
    scores, _ = torch.export.load(tmp_path / 'x.pt2').module()(torch.from_numpy(images))
    assert not scores.requires_grad


@pytest.mark.slow
def test_a_unet_takes_any_batch_and_any_multiple_of_32(tmp_path):
    options = {'model.backbone.type': ShortResNet}
    source = random_source(tmp_path, 'student_demo', 'model', options)
    assert graph.sizes_in_words(source) == 'multiples of 32 from 64 on'
    program = graph.export_program(graph.ExportedNetwork(source), source)
    graph.write_onnx(program, tmp_path / 'x.onnx')
    torch.export.save(program, tmp_path / 'x.pt2')
    assert {path.name for path in tmp_path.iterdir()} == {'x.pth', 'x.onnx', 'x.pt2'}
    session = onnxruntime.InferenceSession(tmp_path / 'x.onnx')
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ('images', 'tensor(uint8)')
    assert [one.name for one in session.get_outputs()] == ['scores', 'labels']
    exported = [graph.file_answers(tmp_path / name) for name in ('x.onnx', 'x.pt2')]
    framework = framework_answers(source)
    for shape in ((1, 3, 64, 64), (3, 3, 128, 64), (2, 3, 96, 160)):
        images = pixels(*shape)
        graph.check_sizes(source, images)
        scores, labels = framework(images)
        assert scores.shape == (shape[0], 1, *shape[2:])
        for answers in exported:
            ours = answers(images)
            np.testing.assert_allclose(ours[0], scores, atol=1e-4)
            assert (ours[1] != labels).mean() < 1e-3


def test_images_that_a_graph_does_not_take(unets, classroom):
    for height, width in ((64, 48), (32, 64), (0, 64)):
        with pytest.raises(
            ValueError, match=f'image of {height}x{width}, but .* takes multiples of 32 from 64 on'
        ):
            graph.check_sizes(unets, pixels(1, 3, height, width))
    assert classroom.inspection.input_size == (64, 64)
    graph.check_sizes(classroom, pixels(1, 3, 64, 64))
    with pytest.raises(ValueError, match='image of 64x96, but .* takes 64x64: let the pipeline'):
        graph.check_sizes(classroom, pixels(1, 3, 64, 96))


def test_int8_is_smaller_and_nearly_the_same(classroom, tmp_path):
    source = of(classroom, 'mean', lambda: classifier(seven_classes, width=2048))
    path, quantised = tmp_path / 'x.onnx', tmp_path / 'x-int8.onnx'
    graph.write_onnx(graph.export_program(graph.ExportedNetwork(source), source), path)
    images = np.tile(pixels(9, 3, 1, 1), (64, 64))
    before = images.copy()
    graph.quantise(path, quantised, iter(images))
    np.testing.assert_array_equal(images, before)
    assert not list(tmp_path.glob('*prepared*'))
    assert quantised.stat().st_size < path.stat().st_size / 2
    scores, rounded = (graph.file_answers(one)(images)[0] for one in (path, quantised))
    assert scores.std() > 0.1
    assert 0 < np.abs(rounded - scores).max() < 0.2


def test_heads_with_other_outputs_are_refused(unets, monkeypatch):
    class TwoBranches(nn.Module):
        def forward(self, inputs, mode):
            return [inputs, inputs]

    network = graph.ExportedNetwork(unets)
    network.members = nn.ModuleList([TwoBranches()])
    message = r'expected logits \(N, K\) or \(N, K, H, W\) of TwoBranches, got list'
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=rf'cannot trace kdml_v3_demo-ensemble: ValueError: {message}'
    ):
        graph.export_program(network, unets)


def test_a_missing_package_is_named():
    with pytest.raises(ValueError, match=r"needs not_there: pip install 'mmkdml\[export\]'"):
        graph.require('not_there')


def test_each_member_is_normalized_as_it_was_trained(tmp_path):
    own = dict(mean=[1.0, 20.0, 60.0], std=[90.0, 50.0, 70.0])
    config = load_config(CONFIGS / 'kdml_v3_demo.py')
    config.model.students[1].data_preprocessor = dict(
        config.model.data_preprocessor, **own, bgr_to_rgb=False
    )
    torch.manual_seed(0)
    torch.save(inspect_config(config).distiller.state_dict(), tmp_path / 'x.pth')
    source = load_source(config, tmp_path / 'x.pth', 'ensemble', (64, 64))
    images = pixels(2, 3, 64, 64)
    network = graph.ExportedNetwork(source)
    expected = []
    bgr = images[:, ::-1]
    shape = (3, 1, 1)
    for member, inputs in zip(
        source.members.values(),
        (
            (images - MEAN) / STD,
            (bgr - np.reshape(own['mean'], shape)) / np.reshape(own['std'], shape),
        ),
        strict=True,
    ):
        with torch.inference_mode():
            logits = member.decode_head(member.backbone(torch.from_numpy(inputs).float()))
        expected.append(logits.sigmoid().numpy())
    network.ensemble = ENSEMBLES['mean']
    scores, _ = graph.network_answers(network)(images)
    np.testing.assert_allclose(scores, (expected[0] + expected[1]) / 2, atol=1e-5)
    # The framework, too, and the traced graph.
    source = dataclasses.replace(source, ensemble=ENSEMBLES['mean'])
    np.testing.assert_allclose(framework_answers(source)(images)[0], scores, atol=1e-5)
    traced = graph.network_answers(graph.export_program(network, source).module())
    np.testing.assert_allclose(traced(images)[0], scores, atol=1e-5)


def test_what_onnx_cannot_do_is_told_in_one_line(monkeypatch, tmp_path):
    """torch's own error is the whole graph."""

    def fail(*args, **options):
        cause = RuntimeError('adaptive_avg_pool2d: output size is not constant\n%1 = graph\n' * 50)
        raise torch.onnx.OnnxExporterError(
            'Failed to convert the exported program\n' * 90
        ) from cause

    monkeypatch.setattr(torch.onnx, 'export', fail)
    with pytest.raises(ValueError, match='mine-student_1 is not supported as ONNX') as refused:
        graph.write_onnx(None, tmp_path / 'mine-student_1.onnx')
    text = str(refused.value)
    assert 'RuntimeError: adaptive_avg_pool2d: output size is not constant' in text
    assert '--format torch-export' in text
    assert '\n' not in text


def test_what_onnxruntime_cannot_load_is_told_in_one_line(tmp_path):
    (tmp_path / 'x.onnx').write_bytes(b'no model')
    with pytest.raises(ValueError, match='x is not supported as ONNX .*torch-export') as refused:
        graph.file_answers(tmp_path / 'x.onnx')
    assert '\n' not in str(refused.value)
