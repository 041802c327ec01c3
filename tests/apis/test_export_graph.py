from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from mmkdml.analysis import inspect_config
from mmkdml.apis import export_graph as graph
from mmkdml.apis import load_config
from mmkdml.apis.export_source import load_source
from mmkdml.models.ensembles import ENSEMBLES

CONFIGS = Path(__file__).parents[2] / 'configs' / 'demo'
MOBILENET = dict(
    _delete_=True, type='mmkdml.models.PretrainedTIMMBackbone', model_name='mobilenetv1_100'
)


def random_source(folder, config, what, options=None):
    torch.manual_seed(0)
    config = load_config(CONFIGS / f'{config}.py', options)
    inspection = inspect_config(config)
    torch.save((inspection.distiller or inspection.members['model']).state_dict(), folder / 'x.pth')
    return load_source(config, folder / 'x.pth', what)


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
    mean, std = (
        np.array(v).reshape(3, 1, 1) for v in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    inputs = torch.from_numpy((images - mean) / std).float()
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


@pytest.mark.slow
def test_a_unet_takes_any_batch_and_any_multiple_of_32(tmp_path):
    source = random_source(tmp_path, 'student_demo', 'model')
    network = graph.ExportedNetwork(source)
    program = graph.export_program(network, source)
    graph.write_onnx(program, tmp_path / 'x.onnx')
    torch.export.save(program, tmp_path / 'x.pt2')
    assert {path.name for path in tmp_path.iterdir()} == {'x.pth', 'x.onnx', 'x.pt2'}
    session = onnxruntime.InferenceSession(tmp_path / 'x.onnx')
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ('images', 'tensor(uint8)')
    assert [one.name for one in session.get_outputs()] == ['scores', 'labels']
    exported = [graph.file_answers(tmp_path / name) for name in ('x.onnx', 'x.pt2')]
    for shape in ((1, 3, 64, 64), (3, 3, 128, 64), (2, 3, 96, 160)):
        images = pixels(*shape)
        scores, labels = graph.network_answers(network)(images)
        assert scores.shape == (shape[0], 1, *shape[2:])
        for answers in exported:
            ours = answers(images)
            np.testing.assert_allclose(ours[0], scores, atol=1e-4)
            assert (ours[1] != labels).mean() < 1e-3


@pytest.mark.slow
def test_a_mobilenet_in_onnx_and_in_int8(tmp_path):
    options = {'model.backbone': MOBILENET, 'model.head.in_channels': 1024}
    source = random_source(tmp_path, 'student_demo_slices', 'model', options)
    network = graph.ExportedNetwork(source)
    path, quantised = tmp_path / 'x.onnx', tmp_path / 'x-int8.onnx'
    graph.write_onnx(graph.export_program(network, source), path)
    images = pixels(5, 3, source.inspection.input_size[0], source.inspection.input_size[1])
    scores, labels = graph.network_answers(network)(images)
    ours = graph.file_answers(path)(images)
    np.testing.assert_allclose(ours[0], scores, atol=1e-5)
    np.testing.assert_array_equal(ours[1], labels)
    before = images.copy()
    graph.quantise(path, quantised, iter(images))
    np.testing.assert_array_equal(images, before)
    assert not list(tmp_path.glob('*prepared*'))
    assert quantised.stat().st_size < path.stat().st_size / 2
    rounded = graph.file_answers(quantised)(images)[0]
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
