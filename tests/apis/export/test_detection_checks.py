"""Comparison of boxes, and case tables and plain checkpoints of detectors."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from mmdet.apis import inference_detector, init_detector
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData

from mmkdml.apis import load_config
from mmkdml.apis.export import checks, detection_checks, formats, graph
from mmkdml.apis.export.card import make_card, write_card
from mmkdml.apis.export.checkpoint import write_checkpoint
from mmkdml.apis.export.detection_graph import ExportedDetector
from mmkdml.evaluation import CaseTable
from mmkdml.packages import packaged_file

IMAGE = np.random.default_rng(0).integers(256, size=(3, 64, 96), dtype=np.uint8)
BOXES = np.array([[1.0, 2, 30, 40], [1, 2, 30, 40], [50, 50, 60, 60], [-1, -1, -1, -1]])
FOUND = (BOXES[None], np.array([[0.9, 0.8, 0.7, -1]]), np.array([[0, 1, 1, -1]]))


def compared(found, expected=FOUND):
    comparison = detection_checks.BoxComparison()
    comparison.add(found, expected)
    return comparison


def test_order_and_padding_do_not_matter():
    other = tuple(one[:, [2, 1, 0]] for one in FOUND)
    agreement = compared(other).result('x')
    assert (agreement.images, agreement.boxes, agreement.other_labels) == (1, 6, 0)
    assert agreement.max_difference == agreement.max_box_difference == 0
    assert str(agreement) == (
        'Largest difference from PyTorch on 1 images: 0 (scores), 0 pixels (boxes); 0.00% of 6 '
        'boxes have no match'
    )


def test_small_differences_are_measured():
    agreement = compared((FOUND[0] + 0.03125, FOUND[1] + 2**-14, FOUND[2])).result('x')
    assert agreement.max_box_difference == pytest.approx(0.03125)
    assert agreement.max_difference == pytest.approx(2**-14, rel=1e-2)


@pytest.mark.parametrize(
    ('place', 'change', 'unmatched'),
    [
        (0, 0.1, 2),  # the box itself in both directions
        (1, -2e-4, 2),
        (1, np.nan, 2),
        (2, 1, 1),  # the second class has an additional box, the first lacks one
    ],
    ids=['box', 'score', 'nan', 'label'],
)
def test_other_boxes_have_no_match(place, change, unmatched):
    found = [one.astype(float) for one in FOUND]
    found[place][0, 2 if place < 2 else 0] += change
    comparison = compared(tuple(found))
    assert comparison.unmatched >= unmatched
    with pytest.raises(ValueError, match='x differs from PyTorch on 1 images: .* of 6 boxes have'):
        comparison.result('x')


def test_missing_boxes_have_no_match():
    nothing = tuple(np.full_like(one, -1) for one in FOUND)
    assert compared(nothing).unmatched == compared(nothing).boxes == 3
    assert compared(FOUND, nothing).unmatched == 3
    with pytest.raises(ValueError, match='expected boxes to check, got none above score_thr on 1'):
        compared(nothing, nothing).result('x')


def test_one_box_in_a_hundred_may_differ():
    rng = np.random.default_rng(0)
    boxes, scores = rng.random((1, 100, 4)) * 100, rng.random((1, 100))
    labels = np.zeros((1, 100), int)
    for number, fits in ((1, True), (2, False)):
        other = scores.copy()
        other[0, :number] += 2
        comparison = compared((boxes, scores, labels), (boxes, other, labels))
        assert comparison.unmatched == 2 * number
        if fits:
            assert comparison.result('x').other_labels == pytest.approx(0.01)
        else:
            with pytest.raises(ValueError, match=r'2\.00% of 200 boxes'):
                comparison.result('x')


def test_case_table_is_that_of_mmdet(detector_source):
    """Boxes at the size of the original images, with and without selection in the graph."""
    samples = []
    for number in range(2):
        meta = dict(
            id=str(number), group='g', ori_shape=(140, 200), img_shape=(70, 100),
            scale_factor=(0.5, 0.5),
        )  # fmt: skip
        truth = InstanceData(
            bboxes=torch.tensor([[20.0, 20, 90, 90], [100, 40, 190, 130]]),
            labels=torch.tensor([0, 2]),
        )
        samples.append(
            DetDataSample(metainfo=meta, gt_instances=truth, ignored_instances=truth[:0])
        )
    images = np.random.default_rng(1).integers(256, size=(2, 3, 70, 100), dtype=np.uint8)
    tables = []
    for nms in (True, False):
        source = detector_source('retinanet', nms=nms)
        dataset = _Dataset(images, samples)
        predict = graph.network_predictor(ExportedDetector(source))
        tables.append(checks.case_table(predict, source, dataset, 'x'))
    member = source.members['model']
    metric = CaseTable()
    metric.dataset_meta = dataset.metainfo
    for image, sample in zip(images, samples, strict=True):
        batch = dict(inputs=[torch.from_numpy(image[::-1].copy())], data_samples=[sample.clone()])
        with torch.no_grad():
            metric.process(None, [one.to_dict() for one in member.test_step(batch)])
    metric.evaluate(2)
    expected = metric.table.drop(columns='member')
    assert len(expected) > 50
    assert expected['hits'].any()
    for table in tables:
        found = table.drop(columns='member')
        np.testing.assert_allclose(found['score'], expected['score'], atol=1e-6)
        for column in ('id', 'label', 'rank', 'hits', 'boxes'):
            assert found[column].tolist() == expected[column].tolist()


class _Dataset(list):
    metainfo = dict(classes=('a', 'b', 'c'))

    def __init__(self, images, samples):
        super().__init__(
            dict(inputs=torch.from_numpy(image[::-1].copy()), data_samples=sample.clone())
            for image, sample in zip(images, samples, strict=True)
        )


@pytest.fixture(scope='module')
def source(random_source):
    """Return a student of the study, whose classes have scores up to 1."""
    config = load_config(packaged_file('mmkdml::study/bccd192.py'))
    source = random_source(config, 'student_1', meta=dict(classes=('a', 'b', 'c')), size=(64, 96))
    torch.nn.init.normal_(source.members['student_1'].bbox_head.atss_cls.weight, std=0.3)
    return source


def test_plain_checkpoint_is_loaded_by_mmdet(source, tmp_path):
    exported = formats.export(source, tmp_path, 'checkpoint', [IMAGE])
    assert (exported.needs, exported.agreement.max_difference) == ((), 0)
    assert exported.agreement.boxes > 10
    path = tmp_path / 'bccd192-student_1.py'
    assert 'mmkdml' not in path.read_text()
    detector = init_detector(str(path), str(path.with_suffix('.pth')), device='cpu')
    assert detector.dataset_meta['classes'] == ('a', 'b', 'c')
    image = np.repeat(np.repeat(IMAGE, 2, 1), 2, 2)  # is resized
    found = inference_detector(detector, image[::-1].transpose(1, 2, 0).copy()).pred_instances
    assert len(found) > 10
    assert found.bboxes[:, 2].max() > 150


def test_weights_that_a_head_shares_are_written(detector_source, tmp_path):
    rtmdet = detector_source('rtmdet')
    model = packaged_file('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py')
    config = Config(dict(model=Config.fromfile(model).model))
    path, _ = write_checkpoint(dataclasses.replace(rtmdet, config=config), tmp_path)
    assert path.with_suffix('.safetensors').stat().st_size > 10_000


def test_formats_of_detectors(source, tmp_path):
    selecting = dataclasses.replace(source, nms=True)
    for form in ('checkpoint', 'torch-export'):
        with pytest.raises(ValueError, match=f'nms: expected the format onnx, got {form}'):
            formats.export(selecting, tmp_path, form, [IMAGE])
    with pytest.raises(ValueError, match=r'expected 64x96, got 64x64 .*mmdet.Pad'):
        formats.export(source, tmp_path, 'onnx', [IMAGE[..., :64]])
    pair = dict(source.members, student_2=source.members['student_1'])
    ensemble = dataclasses.replace(source, members=pair, what='ensemble')
    for form in ('onnx', 'torch-export'):
        with pytest.raises(ValueError, match='Ensembles of detectors are not supported in a graph'):
            formats.export(ensemble, tmp_path, form, [IMAGE])
    with pytest.raises(ValueError, match='Export each student, or publish it for use with mmkdml'):
        formats.export(ensemble, tmp_path, 'checkpoint', [IMAGE])
    assert list(tmp_path.iterdir()) == []


def test_detectors_without_a_graph_are_timed(detector_source):
    source = detector_source('fovea')
    exported = formats.Exported({'checkpoint': None}, detection_checks.BoxAgreement(1, 0, 0, 1, 0))
    assert formats.measure_latencies(exported, source)['in PyTorch'] > 0


def test_card_of_a_detector(source, tmp_path):
    agreement = detection_checks.BoxAgreement(3, 1e-6, 0.001, 500, 2e-5)
    exported = formats.Exported({}, agreement)
    for nms, outputs in (
        (False, 'boxes of all P priors (N, P, 4) and scores (N, P, K), without non-maximum'),
        (True, 'selected boxes (N, M, 4) with scores and labels (N, M), filled up with -1'),
    ):
        card = make_card(
            dataclasses.replace(source, nms=nms), 'onnx', tmp_path, exported, dict(onnx=1.0)
        )
        write_card(card, tmp_path)
        text = (tmp_path / 'bccd192-student_1.md').read_text()
        for part in (
            'Detection by ResNet(18) + FPN + ATSSHead. Format: onnx.',
            'H and W: 64x96, to which the test pipeline resizes images, and keeps their aspect',
            outputs,
            "'iou_threshold': 0.6",
            'edges of boxes by at most 2e-05 pixels; 0.1 % of 500 boxes have no match.',
        ):
            assert part in text
    assert (
        json.loads((tmp_path / 'bccd192-student_1.json').read_text())['agreement']['boxes'] == 500
    )
