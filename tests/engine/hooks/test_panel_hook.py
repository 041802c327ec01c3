from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch

# isort: split
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmpretrain.structures import DataSample
from mmseg.structures import SegDataSample

from mmkdml.engine import PanelHook
from mmkdml.engine.hooks import panel_hook as module
from mmkdml.evaluation import mask_panels
from mmkdml.registry import HOOKS


@pytest.fixture
def runner(tmp_path):
    return SimpleNamespace(
        work_dir=str(tmp_path / 'run'),
        logger=MMLogger.get_current_instance(),
        test_evaluator=SimpleNamespace(dataset_meta=dict(classes=('background', 'tumor'))),
    )


@pytest.fixture
def drawn(monkeypatch):
    """Rows of each drawn contact sheet."""
    sheets = []
    original = module._draw

    def draw(rows, *args):
        if rows[0].title:  # not that of a single sample
            sheets.append(rows)
        original(rows, *args)

    monkeypatch.setattr(module, '_draw', draw)
    return sheets


@pytest.fixture
def recorded(monkeypatch):
    """Rows of each contact sheet, which is not drawn."""
    sheets = []

    def keep(rows, *args):
        if rows[0].title:
            sheets.append(rows)

    monkeypatch.setattr(mask_panels, 'draw_sheet', keep)
    return sheets


def sample(path, foreground=True, members=('student_2', 'teacher', 'student_1'), **meta):
    truth = torch.zeros(1, 8, 8, dtype=torch.long)
    truth[..., 2:5, 2:5] = foreground
    mask = PixelData(data=truth.roll(1, -1))
    element = SegDataSample(
        gt_sem_seg=PixelData(data=truth),
        pred_sem_seg=mask,
        metainfo=dict(img_path=str(path), **meta),
    )
    if members:
        element.members = BaseDataElement(
            **{name: SegDataSample(pred_sem_seg=mask) for name in members}
        )
    return element


def images(folder, count):
    """Write images of 16x12 with their number as red channel; masks are 8x8."""
    paths = [folder / f'slice_{index:02d}.png' for index in range(count)]
    for index, path in enumerate(paths):
        mmcv.imwrite(np.full((12, 16, 3), (200, 100, index), np.uint8), str(path))  # BGR
    return paths


def run(hook, runner, samples, batch=3):
    hook.before_test_epoch(runner)
    for start in range(0, len(samples), batch):
        hook.after_test_iter(runner, start, None, samples[start : start + batch])
    hook.after_test_epoch(runner, {})


def test_samples_with_foreground_are_drawn(tmp_path, runner, drawn):
    paths = images(tmp_path, 4)
    samples = [sample(path, foreground=index != 1) for index, path in enumerate(paths)]
    ignored = sample(paths[1], foreground=False)
    ignored.gt_sem_seg.data[..., 0, 0] = 255
    run(HOOKS.build(dict(type='mmkdml.PanelHook')), runner, [*samples, ignored])

    assert sorted(path.name for path in (tmp_path / 'run' / 'panels').iterdir()) == [
        '01_slice_00.png',
        '02_slice_02.png',
        '03_slice_03.png',
        'panels.png',
    ]
    rows = drawn[0]
    assert [row.title for row in rows] == ['slice_00', 'slice_02', 'slice_03']
    assert list(rows[0].masks) == ['truth', 'teacher', 'student_1', 'student_2', 'ensemble']
    np.testing.assert_array_equal(rows[0].masks['truth'], samples[0].gt_sem_seg.data[0])
    np.testing.assert_array_equal(rows[0].masks['ensemble'], samples[0].pred_sem_seg.data[0])
    # The image is resized to the masks and RGB.
    assert rows[2].image.shape == (8, 8, 3)
    assert rows[2].image[0, 0].tolist() == [3, 100, 200]


@pytest.mark.parametrize(('count', 'num'), [(3, 8), (8, 8), (17, 4), (40, 5), (9, 1)])
def test_samples_are_spread_evenly(tmp_path, runner, recorded, count, num):
    samples = [sample(path) for path in images(tmp_path, count)]
    hook = PanelHook(num=num)
    run(hook, runner, samples)
    chosen = [int(row.title[-2:]) for row in recorded[0]]
    assert len(chosen) == min(count, num)
    assert chosen[0] == 0
    gaps = np.diff([*chosen, count])  # The last gap is to the end of the set.
    assert gaps.min() >= 1
    assert gaps.max() <= 2 * count / num + 1


def test_no_group_is_repeated_before_all_are_used(tmp_path, runner, recorded):
    paths = images(tmp_path, 12)
    samples = [sample(path, group='abcd'[index // 3]) for index, path in enumerate(paths)]
    samples[4].gt_sem_seg.data[..., 5, 5] = 1  # the largest region of b
    run(PanelHook(num=3), runner, samples)
    run(PanelHook(num=6), runner, samples)
    groups = [[int(row.title[-2:]) // 3 for row in rows] for rows in recorded]
    assert sorted(set(groups[0])) == groups[0]
    assert len(groups[0]) == 3
    assert [groups[1].count(one) for one in range(4)] == [2, 2, 1, 1]
    assert 'slice_04' in [row.title for row in recorded[1]]


def test_plain_segmentor_is_drawn_in_an_absolute_folder(tmp_path, runner, drawn):
    (path,) = images(tmp_path, 1)
    run(PanelHook(out_dir=str(tmp_path / 'there')), runner, [sample(path, members=())])
    assert list(drawn[0][0].masks) == ['truth', 'model']
    assert (tmp_path / 'there' / 'panels.png').exists()


@pytest.mark.parametrize(
    'samples',
    [
        [DataSample().set_gt_label(1).set_pred_label(1)],
        [SegDataSample(pred_sem_seg=PixelData(data=torch.ones(1, 2, 2)))],
        [sample('not read.png', foreground=False)],
        [],
    ],
    ids=['classification', 'no truth', 'no foreground', 'nothing'],
)
def test_no_files_without_samples_to_draw(tmp_path, runner, samples):
    run(PanelHook(), runner, samples)
    assert not (tmp_path / 'run').exists()


def test_each_test_starts_without_samples(tmp_path, runner, drawn):
    first, second = images(tmp_path, 2)
    hook = PanelHook()
    hook.after_test_iter(runner, 0, None, [sample(first)])  # An interrupted test.
    run(hook, runner, [sample(second)])
    assert [row.title for row in drawn[0]] == ['slice_01']


def test_samples_are_not_changed(tmp_path, runner):
    one = sample(images(tmp_path, 1)[0])
    before = one.gt_sem_seg.data.clone(), one.pred_sem_seg.data.clone()
    run(PanelHook(), runner, [one])
    torch.testing.assert_close((one.gt_sem_seg.data, one.pred_sem_seg.data), before)


def test_only_the_main_process_draws(tmp_path, runner, monkeypatch):
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    run(PanelHook(), runner, [sample(images(tmp_path, 1)[0])])
    assert not (tmp_path / 'run').exists()


def test_invalid_arguments_and_samples_raise(tmp_path, runner):
    with pytest.raises(ValueError, match='num: expected an int of at least 1, got 0'):
        PanelHook(num=0)
    nameless = sample('x')
    del nameless.img_path
    with pytest.raises(ValueError, match=r"metainfo 'img_path', got \[\].*meta_keys"):
        run(PanelHook(), runner, [nameless])
    with pytest.raises(ValueError, match=r'gone\.png'):
        run(PanelHook(), runner, [sample(tmp_path / 'gone.png')])


def box_sample(path, number, scores=(0.9, 0.2), members=('student_1', 'teacher')):
    from mmdet.structures import DetDataSample

    boxes = torch.tensor([[1.0, 1, 4, 4], [5, 5, 7, 8]])
    found = InstanceData(bboxes=boxes, scores=torch.tensor(scores), labels=torch.tensor([0, 0]))
    corner = torch.arange(number)[:, None] % 4
    truth = InstanceData(
        bboxes=torch.cat([corner, corner, corner + 3, corner + 3], 1).float(),
        labels=torch.zeros(number).long(),
    )
    one = DetDataSample(
        gt_instances=truth,
        ignored_instances=truth[:0],
        pred_instances=found,
        metainfo=dict(img_path=str(path), ori_shape=(12, 16), img_shape=(24, 32)),
    )
    one.members = BaseDataElement(**{name: DetDataSample(pred_instances=found) for name in members})
    return one


def test_boxes_of_images_with_most_true_boxes(tmp_path, runner, drawn):
    pytest.importorskip('mmdet')
    paths = images(tmp_path, 4)
    samples = [box_sample(path, index) for index, path in enumerate(paths)]
    for one in samples[1:]:
        one.set_metainfo(dict(group='a'))
    run(PanelHook(num=1), runner, samples)  # the first has no true box
    (row,) = drawn[0]
    assert row.title == 'slice_03'
    assert row.image.shape == (12, 16, 3)  # the original size
    assert list(row.boxes) == ['teacher', 'student_1', 'ensemble']
    assert len(row.truth.labels) == 3
    for found in row.boxes.values():
        assert found.boxes.tolist() == [[1, 1, 4, 4]]  # scores of at least 0.3
    assert sorted(path.name for path in (tmp_path / 'run' / 'panels').iterdir()) == [
        '01_slice_03.png',
        'panels.png',
    ]
    run(PanelHook(score_threshold=0.1), runner, samples)
    assert len(drawn[1][0].boxes['ensemble'].scores) == 2


def test_detector_without_truth_draws_nothing(tmp_path, runner):
    pytest.importorskip('mmdet')
    one = box_sample('x.png', 2)
    del one.gt_instances
    run(PanelHook(), runner, [one, box_sample('y.png', 0)])
    assert not (tmp_path / 'run').exists()
    with pytest.raises(ValueError, match=r'score_threshold.*\[0, 1\], got 2'):
        PanelHook(score_threshold=2)
