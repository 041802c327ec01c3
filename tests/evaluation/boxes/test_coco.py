"""mmdet's own metrics of boxes in MemberMetrics."""

import contextlib
import io
import json

import numpy as np
import pytest

from mmkdml.evaluation import MemberMetrics
from mmkdml.evaluation.boxes.coco import prints_to_log, report_zero_if_nothing_found, with_a_box

BOX = [[10, 10, 60, 60]]


@pytest.fixture(scope='module')
def one_finds_nothing(boxes):
    """Two samples in which only the teacher finds the only object."""
    none = ([], [], [])
    samples = [
        boxes.classroom(0, (BOX, [0]), teacher=(BOX, [0], [0.9]), student_1=none),
        boxes.classroom(1, ([], []), teacher=none, student_1=none),
    ]
    samples[0].set_metainfo(dict(instances=[dict(bbox=BOX[0], bbox_label=0, ignore_flag=0)]))
    samples[1].set_metainfo(dict(instances=[]))
    return samples


def write_truth(path, boxes):
    names = boxes.META['classes']
    path.write_text(
        json.dumps(
            dict(
                images=[dict(id=0), dict(id=1)],
                categories=[dict(id=k, name=name) for k, name in enumerate(names)],
                annotations=[
                    dict(
                        id=1, image_id=0, category_id=0, bbox=[10, 10, 50, 50], area=2500, iscrowd=0
                    )
                ],
            )
        )
    )
    return str(path)


@pytest.mark.parametrize('from_file', [False, True])
@pytest.mark.parametrize('metric', ['bbox', 'proposal'])
def test_cocometric_reports_the_same_keys(
    run, boxes, one_finds_nothing, tmp_path, metric, from_file
):
    from mmdet.evaluation import CocoMetric

    file = write_truth(tmp_path / 'truth.json', boxes) if from_file else None
    config = dict(type=CocoMetric, metric=metric, ann_file=file, classwise=metric == 'bbox')
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        values = run(MemberMetrics(config), one_finds_nothing, boxes.META)
    assert printed.getvalue() == ''
    keys = [key.removeprefix('teacher/') for key in values if key.startswith('teacher/')]
    for name in ('student_1', 'ensemble'):
        assert [key for key in values if key.startswith(name)] == [f'{name}/{key}' for key in keys]
    assert set(keys) > ({'coco/bbox_mAP', 'coco/cell_precision'} if metric == 'bbox' else set())
    for key in keys:
        teacher, student = (float(values[f'{name}/{key}']) for name in ('teacher', 'student_1'))
        # Values without true boxes are -1 or nan, as ever.
        assert (teacher, student) in ((1, 0), (-1, -1)) or np.isnan([teacher, student]).all()


def test_vocmetric_reports_the_same_keys(run, boxes, one_finds_nothing):
    from mmdet.evaluation import VOCMetric

    config = dict(type=VOCMetric, iou_thrs=[0.5, 0.75])
    values = run(MemberMetrics(config), one_finds_nothing, boxes.META)
    own = {
        name: {key.partition('/')[2]: values[key] for key in values if key.startswith(name)}
        for name in ('teacher', 'student_1', 'ensemble')
    }
    assert own['teacher'].keys() == own['student_1'].keys() == own['ensemble'].keys()
    assert {*own['student_1'].values()} == {0}
    assert min(own['teacher'].values()) > 0


def test_file_of_results_has_no_box(run, boxes, one_finds_nothing, tmp_path):
    from mmdet.evaluation import CocoMetric

    config = dict(type=CocoMetric, format_only=True, outfile_prefix=str(tmp_path / 'found'))
    metric = MemberMetrics(config, include=['student_1'])
    assert run(metric, one_finds_nothing, boxes.META) == {}
    assert json.loads((tmp_path / 'found.bbox.json').read_text()) == []


def test_box_has_an_empty_mask():
    from pycocotools import mask

    truth = dict(img_id=0, width=4, height=3)
    found = dict(img_id=0, bboxes=np.zeros((0, 4)), scores=np.zeros(0), labels=[], masks=[])
    ((same, changed),) = with_a_box([(truth, found)])
    assert same is truth
    assert len(changed['bboxes']) == len(changed['scores']) == len(changed['masks']) == 1
    assert mask.decode(changed['masks'][0]).tolist() == np.zeros((3, 4)).tolist()
    assert found['masks'] == []


def test_results_with_predictions_are_not_changed():
    none, some = dict(scores=[]), dict(scores=[0.5])
    results = [({}, none), ({}, some)]
    assert with_a_box(results) is results
    assert with_a_box([]) == []


def test_other_metrics_are_not_changed():
    from mmpretrain.evaluation import Accuracy

    metric = Accuracy()
    report_zero_if_nothing_found(metric)
    assert 'compute_metrics' not in vars(metric)


def test_prints_of_failed_metrics_are_logged():
    def fail():
        with prints_to_log():
            print('before the error')
            raise KeyError('metric')

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        with pytest.raises(KeyError, match='metric'):
            fail()
        print('afterwards')
    assert printed.getvalue() == 'afterwards\n'
