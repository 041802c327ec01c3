import numpy as np
import pandas as pd
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmkdml.evaluation import CaseTable, ForegroundIoU
from mmkdml.statistics.measures import count


def segmented(name, truth, **members):
    sample = SegDataSample(
        metainfo=dict(id=name, group=name[0]), gt_sem_seg=PixelData(data=torch.tensor([truth]))
    )
    predictions = {
        key: SegDataSample(pred_sem_seg=PixelData(data=torch.tensor([value])))
        for key, value in members.items()
    }
    sample.pred_sem_seg = predictions.pop('ensemble').pred_sem_seg
    if predictions:
        sample.members = BaseDataElement(**predictions)
    return sample


def classified(name, truth, **members):
    sample = DataSample(metainfo=dict(id=name, group='g')).set_gt_label(truth)
    sample.set_pred_label(members.pop('ensemble'))
    if members:
        sample.members = BaseDataElement(
            **{key: DataSample().set_pred_label(value) for key, value in members.items()}
        )
    return sample


def table(samples, classes=('background', 'lesion'), **kwargs):
    metric = CaseTable(**kwargs)
    evaluator = Evaluator(metric)
    evaluator.dataset_meta = dict(classes=classes)
    evaluator.process(samples)
    assert evaluator.evaluate(len(samples)) == {}
    return metric.table


def test_pixels_of_each_member_and_image():
    got = table(
        [
            segmented('b', [[0, 1, 1]], student_1=[[1, 1, 1]], ensemble=[[0, 0, 1]]),
            segmented('a', [[0, 0, 255]], student_1=[[0, 1, 1]], ensemble=[[0, 0, 0]]),
        ]
    )
    expected = pd.DataFrame(
        [
            ('ensemble', 'a', 'a', 1, 0, 0, 0),
            ('ensemble', 'b', 'b', 1, 1, 0, 1),
            ('student_1', 'a', 'a', 1, 0, 1, 0),
            ('student_1', 'b', 'b', 1, 2, 1, 0),
        ],
        columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'],
    )
    pd.testing.assert_frame_equal(got, expected, check_dtype=False)


def test_a_row_for_each_foreground_class():
    got = table(
        [segmented('x', [[0, 1, 2, 2]], ensemble=[[1, 1, 2, 0]])], classes=('back', 'one', 'two')
    )
    assert got.drop(columns=['member', 'id', 'group']).to_numpy().tolist() == [
        [1, 1, 1, 0],
        [2, 1, 0, 1],
    ]
    assert set(got.member) == {'model'}


def test_counts_reproduce_the_metric():
    torch.manual_seed(0)
    masks = torch.randint(0, 2, (2, 5, 8, 8)).tolist()
    samples = [
        segmented(f'{i}', truth, ensemble=pred)
        for i, (truth, pred) in enumerate(zip(*masks, strict=True))
    ]
    got = table(samples)[['tp', 'fp', 'fn']].sum()
    evaluator = Evaluator(ForegroundIoU())
    evaluator.dataset_meta = dict(classes=('background', 'lesion'))
    evaluator.process(samples)
    value = evaluator.evaluate(5)['foreground/IoU']
    assert value == pytest.approx(100 * got.tp / got.sum())


def test_classes_of_each_member_and_image():
    got = table(
        [
            classified('2', 1, teacher=0, student_1=1, ensemble=1),
            classified('1', 3, teacher=3, student_1=0, ensemble=2),
        ]
    )
    expected = pd.DataFrame(
        [
            ('ensemble', '1', 'g', 3, 2),
            ('ensemble', '2', 'g', 1, 1),
            ('student_1', '1', 'g', 3, 0),
            ('student_1', '2', 'g', 1, 1),
            ('teacher', '1', 'g', 3, 3),
            ('teacher', '2', 'g', 1, 0),
        ],
        columns=['member', 'id', 'group', 'truth', 'pred'],
    )
    pd.testing.assert_frame_equal(got, expected, check_dtype=False)


def test_padding_samples_are_dropped():
    metric = CaseTable()
    evaluator = Evaluator(metric)
    evaluator.process([classified(name, 0, ensemble=0) for name in '123'])
    evaluator.evaluate(2)
    assert metric.table.id.tolist() == ['1', '2']


def test_samples_are_not_changed():
    sample = segmented('x', [[0, 1]], student_1=[[0, 1]], ensemble=[[1, 1]])
    before = sample.clone()
    table([sample])
    assert sorted(sample.all_keys()) == sorted(before.all_keys())
    assert torch.equal(sample.pred_sem_seg.data, before.pred_sem_seg.data)


def test_only_pixels_of_the_slices_of_a_volume_are_summed():
    """The classes of classified slices have no sum."""
    pixels, images = (
        [kind(f's{place}', truth, ensemble=truth) for place, truth in enumerate([value, value])]
        for kind, value in ((segmented, [[1, 1, 0]]), (classified, 2))
    )
    for place, sample in enumerate([*pixels, *images]):
        sample.set_metainfo(dict(case='c', slice=place % 2, slices=2, group='g'))
    volume = table(pixels)
    assert volume[['id', 'tp', 'fp', 'fn']].to_numpy().tolist() == [['c', 4, 0, 0]]
    slices = table(images)
    assert slices[['id', 'truth', 'pred']].to_numpy().tolist() == [['s0', 2, 2], ['s1', 2, 2]]


def test_incomplete_samples_raise():
    with pytest.raises(ValueError, match='without id, group. Add them to meta_keys'):
        table([DataSample().set_gt_label(0).set_pred_label(0)])
    with pytest.raises(ValueError, match='expected pred_sem_seg, or pred_label and gt_label'):
        table([DataSample(metainfo=dict(id='1', group='1')).set_gt_label(0)])
    with pytest.raises(ValueError, match="Invalid 'classes'"):
        table([segmented('x', [[0, 1]], ensemble=[[1, 1]])], classes=())


def instances(values, labels, scores=None):
    made = InstanceData(bboxes=torch.tensor(values).reshape(-1, 4), labels=torch.tensor(labels))
    if scores is not None:
        made.scores = torch.tensor(scores)
    return made


def detected(name, truth, ignored=((), ()), **members):
    sample = BaseDataElement(metainfo=dict(img_id=name, group='g', ori_shape=(20, 20)))
    found = {key: BaseDataElement(pred_instances=instances(*own)) for key, own in members.items()}
    sample.pred_instances = found.pop('ensemble').pred_instances
    if found:
        sample.members = BaseDataElement(**found)
    sample.gt_instances = instances(*(torch.tensor(one).long().tolist() for one in truth))
    sample.ignored_instances = instances(*(torch.tensor(one).long().tolist() for one in ignored))
    return sample


def test_boxes_of_each_member_and_image():
    truth = [[0, 0, 10, 10], [10, 10, 20, 20]], [1, 1]
    crowd = [[0, 10, 10, 20]], [1]
    # IoUs of 0.6, 1, 0.4; in the crowd; another class
    found = [[0, 0, 10, 6], [10, 10, 20, 20], [10, 0, 14, 10], [0, 10, 5, 20], [0, 0, 10, 10]]
    student = torch.tensor(found).float().tolist(), [1, 1, 1, 1, 0], [0.5, 0.7, 0.9, 0.2, 0.1]
    samples = [
        detected(7, truth, crowd, student_1=student, ensemble=([], [], [])),
        detected(3, ([], []), student_1=([], [], []), ensemble=([[0.0, 0, 1, 1]], [2], [0.25])),
    ]
    got = table(samples, classes=('cell', 'platelet', 'artefact'))
    assert list(got) == [
        'member', 'id', 'group', 'label', 'rank', 'score', 'hits', 'ignored', 'boxes'
    ]  # fmt: skip
    assert got.drop(columns='group').to_numpy().tolist() == [
        ['ensemble', '3', 0, 0, 0, 0, 0, 0],
        ['ensemble', '3', 2, 1, 0.25, 0, 0, 0],
        ['ensemble', '7', 1, 0, 0, 0, 0, 2],
        ['student_1', '3', 0, 0, 0, 0, 0, 0],
        ['student_1', '7', 0, 1, pytest.approx(0.1), 0, 0, 0],
        ['student_1', '7', 1, 0, 0, 0, 0, 2],
        ['student_1', '7', 1, 1, pytest.approx(0.9), 0, 0, 0],
        ['student_1', '7', 1, 2, pytest.approx(0.7), 1023, 0, 0],
        ['student_1', '7', 1, 3, 0.5, 0b111, 0, 0],
        ['student_1', '7', 1, 4, pytest.approx(0.2), 0, 1023, 0],
    ]


def test_best_hundred_boxes_of_a_class_count():
    number = 103
    scores = torch.linspace(0.1, 0.9, number).tolist()
    found = torch.tensor([[0.0, 0, 10, 10]] * number).tolist(), [0] * 102 + [1], scores
    got = table([detected(1, ([[0, 0, 10, 10]], [0]), ensemble=found)], ('cell', 'platelet'))
    assert got.groupby('label')['rank'].max().tolist() == [100, 1]
    own = got[(got['label'] == 0) & (got['rank'] > 0)]
    assert own['score'].tolist() == pytest.approx(scores[101:1:-1])
    assert own['hits'].tolist() == [1023] + [0] * 99


def test_average_precision_is_that_of_the_metric(boxes, run):
    """BoxAP rounds to three digits."""
    from mmkdml.evaluation import BoxAP, MemberMetrics

    samples = boxes.random(12)
    for sample in samples:
        sample.set_metainfo(dict(group='g'))
    expected = run(MemberMetrics(BoxAP()), samples, boxes.META)
    got = table(samples, boxes.META['classes'])
    for name, own in got.groupby('member'):
        ((mean, first),) = count(own, ['g'], 3).summed(np.ones((1, 1)))
        assert mean == pytest.approx(expected[f'{name}/coco/bbox_mAP'], abs=6e-4)
        assert first == pytest.approx(expected[f'{name}/coco/bbox_mAP_50'], abs=6e-4)
    assert got['member'].nunique() == 4
