import dataclasses
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from mmengine.config import ConfigDict
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead, TimmClassifier
from mmpretrain.models.backbones.resnet import BasicBlock
from mmseg.models import CascadeEncoderDecoder, DAHead, EncoderDecoder, FCNHead, OCRHead
from scipy.special import expit, softmax
from torch import nn

from mmkdml.apis import load_config
from mmkdml.apis.export import graph
from mmkdml.apis.export.checks import framework_predictor
from mmkdml.models import BinaryLinearClsHead, StemResNet, UNetHead
from mmkdml.models.tasks import SegmentationTask

ENSEMBLES = SegmentationTask.ensembles
CONFIGS = Path(__file__).parents[3] / 'configs' / 'demo'
MEAN, STD = (
    np.array(v).reshape(3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
)


class OneConvolution(nn.Conv2d):
    """Small backbone that is exported quickly."""

    def forward(self, inputs):
        return (super().forward(inputs).relu(),)


class ShortResNet(StemResNet):
    """ResNet with one block per stage, which halves the export time."""

    arch_settings = {18: (BasicBlock, (1, 1, 1, 1))}


@pytest.fixture(scope='module')
def classroom(random_source):
    return random_source('kdml_v3_demo_slices', 'ensemble')


def of(source, ensemble, *networks):
    """Replace the students of a source by other networks."""
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


def vit():
    network = TimmClassifier(
        model_name='vit_tiny_patch16_224', num_classes=7, img_size=64, patch_size=8, embed_dim=24,
        depth=1, num_heads=2, loss=dict(type='CrossEntropyLoss'),
    )  # fmt: skip
    nn.init.normal_(network.model.head.weight)
    return network


SEVERAL_HEADS = dict(in_channels=8, in_index=0, channels=4, num_classes=2)
BACKBONE = dict(
    type=OneConvolution, in_channels=3, out_channels=8, kernel_size=3, stride=2, padding=1
)


def cascade():
    heads = [
        dict(type=FCNHead, num_convs=0, **{**SEVERAL_HEADS, 'channels': 8}),
        dict(type=OCRHead, ocr_channels=4, **SEVERAL_HEADS),
    ]
    network = CascadeEncoderDecoder(2, BACKBONE, heads, test_cfg=ConfigDict(mode='whole'))
    nn.init.normal_(network.decode_head[1].conv_seg.weight)
    return network


def danet():
    head = dict(type=DAHead, pam_channels=4, **SEVERAL_HEADS)
    network = EncoderDecoder(BACKBONE, head, test_cfg=ConfigDict(mode='whole'))
    nn.init.normal_(network.decode_head.conv_seg.weight)
    return network


@pytest.fixture(scope='module')
def unets(random_source):
    return random_source('kdml_v3_demo', 'ensemble')


def pixels(*shape):
    return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


@pytest.mark.parametrize('name', ENSEMBLES)
def test_segmentation_equals_its_separate_steps(unets, name):
    network = graph.ExportedNetwork(unets)
    network.ensemble = ENSEMBLES[name]
    images = pixels(2, 3, 64, 96)
    scores, labels = graph.network_predictor(network)(images)
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


def test_networks_for_bgr_images_receive_bgr(random_source):
    sources = [
        random_source('student_demo_slices', 'model', {'model.data_preprocessor.to_rgb': to_rgb})
        for to_rgb in (True, False)
    ]
    images = pixels(2, 3, 64, 64)
    rgb, bgr = (graph.network_predictor(graph.ExportedNetwork(source)) for source in sources)
    # Equal weights, mean and deviation: only the channel order differs.
    np.testing.assert_array_equal(rgb(images)[0], bgr(images[:, ::-1].copy())[0])
    assert not np.allclose(rgb(images)[0], bgr(images)[0])


def logits_of(source, images):
    inputs = torch.from_numpy((images - MEAN) / STD).float()
    with torch.inference_mode():
        return np.stack([member(inputs).numpy() for member in source.members.values()])


@pytest.mark.parametrize('name', ['max', 'mean', 'vote'])
def test_classification_equals_its_separate_steps(classroom, name):
    source = of(classroom, name, seven, seven)
    images = np.tile(pixels(40, 3, 1, 1), (64, 64))  # each of one color
    scores, labels = graph.network_predictor(graph.ExportedNetwork(source))(images)
    one, two = softmax(logits_of(source, images), axis=2)
    votes = (one.argmax(1)[:, None] == range(7)) * 0.5 + (two.argmax(1)[:, None] == range(7)) * 0.5
    expected = dict(max=np.maximum(one, two), mean=(one + two) / 2, vote=votes)[name]
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    winner = expected + (one + two) * (name == 'vote') / 100  # breaks ties of votes
    np.testing.assert_array_equal(labels, winner.argmax(1))
    assert len(set(labels.tolist())) > 1


def test_single_logit_gives_two_classes(classroom):
    source = of(classroom, 'mean', binary, binary)
    images = np.tile(pixels(40, 3, 1, 1), (64, 64))
    scores, labels = graph.network_predictor(graph.ExportedNetwork(source))(images)
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
        ((vit, seven), 'mean', (7,)),
        ((cascade, danet), 'mean', (2, 64, 64)),
    ],
)
def test_exported_file_equals_the_network(networks, ensemble, shape, classroom, unets, tmp_path):
    source = of(unets if {unet, danet} & {*networks} else classroom, ensemble, *networks)
    program = graph.export_program(graph.ExportedNetwork(source), source)
    graph.write_onnx(program, tmp_path / 'x.onnx')
    torch.export.save(program, tmp_path / 'x.pt2')
    framework = framework_predictor(source)
    for answers in [graph.file_predictor(tmp_path / name) for name in ('x.onnx', 'x.pt2')]:
        for number in (1, 3):
            images = pixels(number, 3, 64, 64)
            scores, labels = framework(images)
            found = answers(images)
            assert found[0].shape == (number, *shape)
            assert found[0].std() > 0.01
            np.testing.assert_allclose(found[0], scores, atol=1e-5)
            assert (found[1] != labels).mean() < 1e-3
    scores, _ = torch.export.load(tmp_path / 'x.pt2').module()(torch.from_numpy(images))
    assert not scores.requires_grad


@pytest.mark.slow
def test_unet_accepts_any_batch_size_and_multiple_of_32(random_source, tmp_path):
    source = random_source('student_demo', 'model', {'model.backbone.type': ShortResNet})
    assert graph.sizes_in_words(source) == 'multiples of 32, at least 64'
    program = graph.export_program(graph.ExportedNetwork(source), source)
    graph.write_onnx(program, tmp_path / 'x.onnx')
    torch.export.save(program, tmp_path / 'x.pt2')
    assert {path.name for path in tmp_path.iterdir()} == {'x.onnx', 'x.pt2'}
    session = onnxruntime.InferenceSession(tmp_path / 'x.onnx')
    (only,) = session.get_inputs()
    assert (only.name, only.type) == ('images', 'tensor(uint8)')
    assert [one.name for one in session.get_outputs()] == ['scores', 'labels']
    exported = [graph.file_predictor(tmp_path / name) for name in ('x.onnx', 'x.pt2')]
    framework = framework_predictor(source)
    for shape in ((1, 3, 64, 64), (3, 3, 128, 64), (2, 3, 96, 160)):
        images = pixels(*shape)
        graph.check_sizes(source, images)
        scores, labels = framework(images)
        assert scores.shape == (shape[0], 1, *shape[2:])
        for answers in exported:
            found = answers(images)
            np.testing.assert_allclose(found[0], scores, atol=1e-4)
            assert (found[1] != labels).mean() < 1e-3


def test_invalid_image_sizes_raise(unets, classroom):
    for height, width in ((64, 48), (32, 64), (0, 64)):
        with pytest.raises(
            ValueError, match=f'expected multiples of 32, at least 64, got {height}x{width}'
        ):
            graph.check_sizes(unets, pixels(1, 3, height, width))
    assert classroom.inspection.input_size == (64, 64)
    graph.check_sizes(classroom, pixels(1, 3, 64, 64))
    with pytest.raises(ValueError, match='expected 64x64, got 64x96'):
        graph.check_sizes(classroom, pixels(1, 3, 64, 96))


def test_unsupported_heads_raise(unets, monkeypatch):
    class TwoBranches(nn.Module):
        def forward(self, inputs, mode):
            return [inputs, inputs]

    network = graph.ExportedNetwork(unets)
    network.members = nn.ModuleList([TwoBranches()])
    message = r'head of TwoBranches: expected logits \(N, K\) or \(N, K, H, W\), got another output'
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(
        ValueError, match=rf'failed for kdml_v3_demo-ensemble: ValueError: Unsupported {message}'
    ):
        graph.export_program(network, unets)


def test_missing_package_raises():
    with pytest.raises(
        ValueError, match=r"not_there is not installed.* pip install 'mmkdml\[export\]'"
    ):
        graph._require('not_there')


def test_each_member_uses_its_own_normalization(random_source):
    own = dict(mean=[1.0, 20.0, 60.0], std=[90.0, 50.0, 70.0])
    config = load_config(CONFIGS / 'kdml_v3_demo.py')
    for student in config.model.students:
        student.backbone.type = ShortResNet
    config.model.students[1].data_preprocessor = dict(
        config.model.data_preprocessor, **own, bgr_to_rgb=False
    )
    source = dataclasses.replace(random_source(config, 'ensemble'), ensemble=ENSEMBLES['mean'])
    images = pixels(2, 3, 64, 64)
    network = graph.ExportedNetwork(source)
    mean, std = (np.reshape(own[key], (3, 1, 1)) for key in ('mean', 'std'))
    inputs = ((images - MEAN) / STD, (images[:, ::-1] - mean) / std)
    expected = []
    for member, normalized in zip(source.members.values(), inputs, strict=True):
        with torch.inference_mode():
            logits = member.decode_head(member.backbone(torch.from_numpy(normalized).float()))
        expected.append(logits.sigmoid().numpy())
    scores, _ = graph.network_predictor(network)(images)
    np.testing.assert_allclose(scores, (expected[0] + expected[1]) / 2, atol=1e-5)
    # Also compare the framework and the traced graph.
    np.testing.assert_allclose(framework_predictor(source)(images)[0], scores, atol=1e-5)
    traced = graph.network_predictor(graph.export_program(network, source).module())
    np.testing.assert_allclose(traced(images)[0], scores, atol=1e-5)


def test_unsupported_operator_raises_in_one_line(monkeypatch, tmp_path):
    """torch's own error message contains the whole graph."""

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


def test_unloadable_file_raises_in_one_line(tmp_path):
    (tmp_path / 'x.onnx').write_bytes(b'no model')
    with pytest.raises(ValueError, match='x is not supported as ONNX .*torch-export') as refused:
        graph.file_predictor(tmp_path / 'x.onnx')
    assert '\n' not in str(refused.value)


def test_float_images_of_a_loader_are_the_input(random_source):
    source = random_source('kdml_v3_demo_slices', 'student_1')
    program = graph.export_program(
        graph.ExportedNetwork(source), dataclasses.replace(source, dtype='float32')
    )
    images = torch.rand(2, 3, 64, 64) * 255
    expected = graph.ExportedNetwork(source)(images.byte().float())
    found = program.module()(images.byte().float())
    torch.testing.assert_close(found, expected)
