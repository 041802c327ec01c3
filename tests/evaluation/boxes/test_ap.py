import contextlib
import importlib
import io
import json
import logging
import math
import sys

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import METRICS as ROOT

from mmkdml import evaluation
from mmkdml.evaluation import MemberMetrics
from mmkdml.registry import METRICS

BOX_AP = dict(type='mmkdml.BoxAP')
KEYS = ['mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l']


def by_pycocotools(samples, path, classes):
    """Return the statistics of COCOeval for a JSON file, not rounded."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, found = [], []
    for sample in samples:
        for part, crowd in ((sample.gt_instances, 0), (sample.ignored_instances, 1)):
            for (x, y, x2, y2), label in zip(part.bboxes.tolist(), part.labels, strict=True):
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=sample.img_id,
                        category_id=int(label),
                        bbox=[x, y, x2 - x, y2 - y],
                        area=(x2 - x) * (y2 - y),
                        iscrowd=crowd,
                    )
                )
        own = sample.pred_instances
        for (x, y, x2, y2), score, label in zip(
            own.bboxes.tolist(), own.scores, own.labels, strict=True
        ):
            found.append(
                dict(
                    image_id=sample.img_id,
                    category_id=int(label),
                    bbox=[x, y, x2 - x, y2 - y],
                    score=float(score),
                )
            )
    path.write_text(
        json.dumps(
            dict(
                images=[dict(id=sample.img_id) for sample in samples],
                categories=[dict(id=k, name=name) for k, name in enumerate(classes)],
                annotations=annotations,
            )
        )
    )
    truth = COCO(path)
    evaluation = COCOeval(truth, truth.loadRes(found), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:6]


def test_equals_pycocotools(run, boxes, tmp_path):
    samples = boxes.random(12)
    for name in boxes.MEMBERS:
        own = boxes.separate(samples, name)
        stats = by_pycocotools(own, tmp_path / 'truth.json', boxes.META['classes'])
        values = run(BOX_AP, own, boxes.META)
        assert list(values) == [f'coco/bbox_{key}' for key in KEYS]
        expected = [math.nan if value == -1 else value for value in stats]
        assert [*values.values()] == pytest.approx(expected, abs=5.1e-4, nan_ok=True)
        assert 0.1 < values['coco/bbox_mAP'] < values['coco/bbox_mAP_50'] < 1


def test_members_in_one_pass_equal_cocometric_of_each(run, boxes):
    from mmdet.evaluation import CocoMetric

    samples = boxes.random()
    together = run(MemberMetrics(dict(BOX_AP, classwise=True)), samples, boxes.META)
    expected = {}
    for name in (*boxes.MEMBERS, 'ensemble'):
        plain = boxes.separate(samples, name)
        for sample in plain:  # CocoMetric reads them from the metainfo
            parts = (sample.gt_instances, 0), (sample.ignored_instances, 1)
            sample.set_metainfo(
                dict(
                    instances=[
                        dict(bbox=box, bbox_label=label, ignore_flag=flag)
                        for part, flag in parts
                        for box, label in zip(
                            part.bboxes.tolist(), part.labels.tolist(), strict=True
                        )
                    ]
                )
            )
        own = run(CocoMetric(classwise=True), plain, boxes.META)
        expected |= {f'{name}/{key}': math.nan if v == -1 else v for key, v in own.items()}
    assert together == pytest.approx(expected, abs=0, nan_ok=True)
    assert list(together) == list(expected)
    assert math.isnan(together['teacher/coco/artefact_precision'])  # occurs in no image
    assert together['teacher/coco/cell_precision'] > 0


BOX = [[10, 10, 60, 60]]


def test_nothing_found_counts_zero(run, boxes, capfd):
    sample = boxes.classroom(0, (BOX, [0]), teacher=(BOX, [0], [0.9]), student_1=([], [], []))
    values = run(MemberMetrics(dict(BOX_AP, classwise=True)), [sample], boxes.META)
    for name, expected in (('teacher', 1), ('student_1', 0), ('ensemble', 0)):
        for key in ('bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_m', 'cell_precision'):
            assert values[f'{name}/coco/{key}'] == expected
        for key in ('bbox_mAP_s', 'platelet_precision'):  # no true box of that kind
            assert math.isnan(values[f'{name}/coco/{key}'])
    assert 'is empty' not in capfd.readouterr().out


def test_no_true_boxes_give_nan(run, boxes):
    for own in (([], [], []), (BOX, [0], [0.5])):
        values = run(BOX_AP, [boxes.classroom(0, ([], []), ensemble=own)], boxes.META)
        assert len(values) == 6
        assert all(math.isnan(value) for value in values.values())


def test_truth_of_one_evaluation_is_not_that_of_the_next(run, boxes):
    metric = METRICS.build(BOX_AP)
    for truth, expected in ((BOX, 1), ([[0, 0, 5, 5]], 0)):
        sample = boxes.classroom(7, (truth, [0]), ensemble=(BOX, [0], [0.5]))
        assert run(metric, [sample], boxes.META)['coco/bbox_mAP'] == expected


def test_prints_are_logged(run, boxes):
    messages, handler = [], logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = MMLogger.get_current_instance()
    logger.addHandler(handler)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            run(METRICS.build(BOX_AP), boxes.random(2), boxes.META)
    finally:
        logger.removeHandler(handler)
    assert printed.getvalue() == ''
    assert any('Average Precision' in message for message in messages)


def test_found_by_name_and_in_configs(boxes):
    from mmkdml.evaluation.boxes.ap import BoxAP

    assert METRICS.get('BoxAP') is ROOT.get('mmkdml.BoxAP') is evaluation.BoxAP is BoxAP
    config = Config.fromstring(
        'from mmkdml.evaluation import BoxAP, MemberMetrics\n'
        'val_evaluator = dict(type=MemberMetrics, metric=dict(type=BoxAP, classwise=True))\n',
        '.py',
    )
    for one in (config, Config.fromstring(config.pretty_text, '.py')):
        (metric,) = METRICS.build(one.val_evaluator)._metrics
        assert type(metric) is BoxAP
        assert metric.classwise


def test_invalid_samples_raise(run, boxes):
    def evaluate(message, meta=boxes.META, changes=(), remove=(), number=1, **fields):
        sample = boxes.classroom(
            **{**dict(img_id=0, truth=(BOX, [0]), ensemble=(BOX, [0], [0.5])), **fields}
        )
        for key in remove:
            delattr(sample, key)
        with pytest.raises(ValueError, match=message):
            run(METRICS.build(BOX_AP), [sample] * number, meta)

    evaluate(
        r'without gt_instances and ignored_inst.*LoadAnn',
        remove=['gt_instances', 'ignored_instances'],
    )
    evaluate(r'without ignored_instances', remove=['ignored_instances'])
    evaluate(r'without img_id', remove=['img_id'])
    evaluate(r'img_id: .* got \[0\] several', number=2)
    evaluate(r"'classes' .* got None", meta={})
    evaluate(r'labels in gt_instances: expected 0 to 2.* got \[3\]', truth=(BOX, [3]))
    evaluate(r'labels in pred_instances: .* got \[-1\]', ensemble=(BOX, [-1], [0.5]))
    evaluate(
        r'box \[120.0, .*outside of its 120 x 100 pixels \(0.png\).*after Resize',
        truth=([[120, 0, 140, 20]], [0]),
    )
    with pytest.raises(ValueError, match=r"ann_file: .* got 'a.json'"):
        METRICS.build(dict(BOX_AP, ann_file='a.json'))


def test_typed_boxes_are_accepted(run, boxes):
    from mmdet.structures.bbox import HorizontalBoxes

    sample = boxes.classroom(0, (BOX, [0]), ensemble=(BOX, [0], [0.5]))
    sample.gt_instances.bboxes = HorizontalBoxes(np.array(BOX, dtype=np.float32))
    assert run(METRICS.build(BOX_AP), [sample], boxes.META)['coco/bbox_mAP'] == 1


def test_missing_mmdet_is_named_with_the_pip_command(monkeypatch):
    monkeypatch.delitem(sys.modules, 'mmkdml.evaluation.boxes.ap', raising=False)
    monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    with pytest.raises(ValueError, match=r'BoxAP: mmdet is not installed.*mmkdml\[detection\]'):
        importlib.import_module('mmkdml.evaluation.boxes.ap')
