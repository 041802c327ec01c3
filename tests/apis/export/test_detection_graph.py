"""Graphs of detectors against mmdet's own predictions."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
import torch

from mmkdml.apis.export import checks, formats, graph
from mmkdml.apis.export.detection_graph import ExportedDetector

HEADS = ('atss', 'retinanet', 'fcos', 'fcos_norm', 'gfl', 'rtmdet', 'yolox')
IMAGES = np.random.default_rng(0).integers(256, size=(2, 3, 70, 100), dtype=np.uint8)


def detects(source, images=IMAGES):
    return checks.compare(graph.network_predictor(ExportedDetector(source)), source, images)


@pytest.fixture(scope='module', params=HEADS)
def head(request, detector_source):
    return detector_source(request.param)


def test_boxes_of_all_priors_are_those_of_mmdet(head):
    agreement = detects(head)
    assert agreement.boxes > 1000
    assert agreement.other_labels == 0
    assert agreement.max_difference < 1e-6
    assert agreement.max_box_difference < 1e-3


def test_selected_boxes_are_those_of_mmdet(head):
    agreement = detects(dataclasses.replace(head, nms=True))
    assert agreement.boxes > 40
    assert agreement.other_labels == 0
    assert agreement.max_difference < 1e-6


@pytest.mark.parametrize(
    'settings',
    [
        dict(nms_pre=40),
        dict(max_per_img=7),
        dict(min_bbox_size=12),
        dict(score_thr=0.3),
        dict(nms=dict(type='nms', iou_threshold=0.2, split_thr=5)),
    ],
    ids=lambda one: next(iter(one)),
)
def test_settings_of_the_selection_are_those_of_mmdet(detector_source, settings):
    source = detector_source('atss', nms=True)
    (member,) = source.members.values()
    before = checks.framework_predictor(source)(IMAGES)
    changed = copy.deepcopy(member)
    changed.bbox_head.test_cfg.update(settings)
    source = dataclasses.replace(source, members={'model': changed})
    after = checks.framework_predictor(source)(IMAGES)
    assert before[1].shape != after[1].shape or not np.array_equal(before[1], after[1])
    assert detects(source).other_labels == 0


class WithAllPriors(torch.nn.Module):
    """Selection that also returns the boxes and scores of all priors, as without ``nms``."""

    def __init__(self, selection):
        super().__init__()
        self.selection = selection

    def forward(self, boxes, scores, factor, sizes):
        return *self.selection(boxes, scores, factor, sizes), boxes, scores * factor


@pytest.mark.slow
@pytest.mark.parametrize('name', HEADS)
def test_files_of_each_head(detector_source, name, tmp_path):
    """One graph has the outputs with and without ``nms``, because exporting takes seconds."""
    source = detector_source(name, nms=True)
    network = ExportedDetector(source)
    network.selection = WithAllPriors(network.selection)
    program = graph.export_program(network, source)
    files = tmp_path / 'x.onnx', tmp_path / 'x.pt2'
    outputs = [*network.outputs, 'all_boxes', 'all_scores']
    graph.write_onnx(program, files[0], outputs, network.onnx_operators)
    torch.export.save(program, files[1])
    session = onnxruntime.InferenceSession(files[0])
    assert [one.name for one in session.get_outputs()] == outputs
    if name == 'atss':
        assert [one.shape[1:] for one in session.get_outputs()[:3]] == [[100, 4], [100], [100]]
    three = np.concatenate([IMAGES, np.zeros_like(IMAGES[:1])])
    for predict in map(graph.file_predictor, files):
        found = checks.compare(lambda images, p=predict: p(images)[:3], source, three)
        assert (found.images, found.other_labels) == (3, 0)
        assert found.max_difference < 1e-5
        every = dataclasses.replace(source, nms=False)
        found = checks.compare(lambda images, p=predict: p(images)[3:], every, IMAGES)
        assert (found.images, found.other_labels) == (2, 0)


@pytest.mark.slow
def test_export_of_selected_boxes(detector_source, tmp_path):
    source = detector_source('retinanet', nms=True)
    exported = formats.export(source, tmp_path, 'onnx', list(IMAGES))
    assert exported.agreement.other_labels == 0
    assert [path.name for path in tmp_path.iterdir()] == ['retinanet-model.onnx']


def test_images_without_boxes_are_filled_up(detector_source):
    source = detector_source('atss', nms=True)
    member = copy.deepcopy(source.members['model'])
    member.bbox_head.test_cfg.score_thr = 0.9999
    source = dataclasses.replace(source, members={'model': member})
    outputs = ExportedDetector(source)(torch.from_numpy(IMAGES))
    assert all((output == -1).all() for output in outputs)
    with pytest.raises(ValueError, match='expected boxes to check, got none above score_thr on 2'):
        detects(source)


def test_unsupported_detectors_raise(detector_source):
    source = detector_source('atss', nms=True)
    member = source.members['model']
    ensemble = dataclasses.replace(source, members=dict(a=member, b=member))
    with pytest.raises(ValueError, match='Ensembles of detectors are not supported in a graph'):
        ExportedDetector(ensemble)
    for name, kind in (('fovea', 'FOVEA with FoveaHead'),):
        with pytest.raises(ValueError, match=f'model: {kind} is not supported in an exported'):
            ExportedDetector(detector_source(name))
    headless = SimpleNamespace(bbox_head=None)
    with pytest.raises(ValueError, match='NoneType is not supported'):
        ExportedDetector(dataclasses.replace(source, members=dict(model=headless)))
    soft = copy.deepcopy(member)
    soft.bbox_head.test_cfg.nms = dict(type='soft_nms', iou_threshold=0.5)
    soft = dataclasses.replace(source, members=dict(model=soft))
    with pytest.raises(
        ValueError, match="model: expected .*got {'type': 'soft_nms'.*without --nms"
    ):
        ExportedDetector(soft)
    assert detects(dataclasses.replace(soft, nms=False)).other_labels == 0
