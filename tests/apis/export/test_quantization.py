import dataclasses

import numpy as np
import onnx
import torch
from mmpretrain.models import GlobalAveragePooling, ImageClassifier, LinearClsHead
from torch import nn

from mmkdml.apis.export import graph
from mmkdml.apis.export.quantization import quantize


class OneConvolution(nn.Conv2d):
    def forward(self, inputs):
        return (super().forward(inputs).relu(),)


def test_int8_is_smaller_and_nearly_equal(random_source, tmp_path):
    classroom = random_source('kdml_v3_demo_slices', 'student_1')
    torch.manual_seed(0)
    network = ImageClassifier(
        OneConvolution(3, 2048, 3, stride=2),
        GlobalAveragePooling(),
        LinearClsHead(num_classes=7, in_channels=2048),
    )
    nn.init.normal_(network.head.fc.weight, std=3 * (8 / 2048) ** 0.5)
    source = dataclasses.replace(classroom, members=dict(student_1=network.eval()))
    path, quantized = tmp_path / 'x.onnx', tmp_path / 'x-int8.onnx'
    graph.write_onnx(graph.export_program(graph.ExportedNetwork(source), source), path)
    rng = np.random.default_rng(0)
    images = np.tile(rng.integers(256, size=(9, 3, 1, 1), dtype=np.uint8), (64, 64))
    before = images.copy()
    quantize(path, quantized, iter(images))
    np.testing.assert_array_equal(images, before)
    assert not list(tmp_path.glob('*prepared*'))
    assert quantized.stat().st_size < path.stat().st_size / 2
    scores, rounded = (graph.file_predictor(one)(images)[0] for one in (path, quantized))
    assert scores.std() > 0.1
    assert 0 < np.abs(rounded - scores).max() < 0.1
    weights = [
        onnx.numpy_helper.to_array(tensor).astype(int)
        for tensor in onnx.load(quantized).graph.initializer
        if tensor.data_type == onnx.TensorProto.INT8 and len(tensor.dims) > 1
    ]
    assert len(weights) == 2
    for weight in weights:  # the sum of two products fits into 16 bits, as CPUs without VNNI need
        assert weight.max(initial=-weight.min()) * 255 * 2 < 2**15
        assert weight.max() > 32
