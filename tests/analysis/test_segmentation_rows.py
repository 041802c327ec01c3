import copy

import mmcv
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from mmengine.structures import PixelData
from torch.nn.functional import one_hot
from torch.utils.data import DataLoader

from mmkdml.analysis.hard_cases import measure_cases
from mmkdml.analysis.segmentation_rows import DIFFERENCE_COLORS, _mask_row, mask_rows

COLUMNS = ['image', 'truth', 'teacher', 'student_1', 'student_2', 'ensemble', 'difference']


def test_mask_rows(masks):
    model, loader = masks
    rows = mask_rows(model, loader)
    table = measure_cases(model, loader)
    with torch.no_grad():
        samples = [one for data in loader for one in model.test_step(data)]
    for row, sample, (_, numbers) in zip(rows, samples, table.iterrows(), strict=True):
        assert list(row) == COLUMNS
        truth = sample.gt_sem_seg.data[0].numpy() == 1
        assert row['image'].caption == f'region: {truth.sum():,} px'
        picture = mmcv.imread(sample.img_path, channel_order='rgb')
        assert (row['image'].image == picture).all()
        assert (row['truth'].outline == truth).all()
        # The anatomy is visible in all columns.
        assert all((row[name].image == picture).all() for name in COLUMNS[:6])
        for name in COLUMNS[2:5]:
            heat = sample.members.get(name).seg_logits.data[0].numpy()
            assert row[name].heat == pytest.approx(heat, abs=1e-6)
            predicted = sample.members.get(name).pred_sem_seg.data[0].numpy() == 1
            assert (row[name].outline == truth).all()
            assert (row[name].mask == predicted).all()
        mask = sample.pred_sem_seg.data[0].numpy() == 1
        assert row['ensemble'].heat is None
        assert (row['ensemble'].mask == mask).all()
        assert (row['ensemble'].outline == truth).all()
        for name in COLUMNS[2:6]:
            assert row[name].caption == caption_of(
                numbers[f'{name}_IoU_percent'], row[name].mask.any()
            )
        difference = row['difference']
        assert difference.caption == row['ensemble'].caption
        assert difference.legend == DIFFERENCE_COLORS
        for color, part in zip(
            DIFFERENCE_COLORS.values(), (mask & truth, mask & ~truth, ~mask & truth), strict=True
        ):
            painted = (difference.image == (255 * np.array(to_rgb(color))).astype(int)).all(-1)
            assert (painted == part).all()
        rest = difference.image[~mask & ~truth].astype(int)
        assert (rest == rest[:, :1]).all()  # gray
        assert rest.max() <= 0.45 * 255


def caption_of(iou, found):
    if np.isnan(iou):
        return 'both empty'
    if not found:
        return 'nothing found, IoU 0.0 %'
    return f'IoU {iou:.1f} %, Dice {200 * iou / (100 + iou):.1f} %'


def test_ignored_pixels_are_excluded_from_the_difference(masks):
    model, loader = masks
    dataset = copy.deepcopy(loader.dataset)

    def ignoring(packed):
        packed['data_samples'].gt_sem_seg.data[:] = 255
        return packed

    dataset.pipeline.transforms.append(ignoring)
    for row in mask_rows(model, DataLoader(dataset, 8, collate_fn=loader.collate_fn)):
        assert row['image'].caption == 'region: 0 px'
        assert row['ensemble'].mask.any()
        assert row['ensemble'].caption == 'both empty'
        assert row['difference'].image.max() <= 0.45 * 255


def test_mask_rows_of_a_single_network(masks):
    model, loader = masks
    network = copy.deepcopy(model.members['student_1'])
    network.data_preprocessor = model.data_preprocessor
    rows, expected = mask_rows(network, loader), mask_rows(model, loader)
    assert list(rows[0]) == ['image', 'truth', 'model', 'difference']
    for row, both in zip(rows, expected, strict=True):
        # Members of a classroom predict with fused copies.
        np.testing.assert_allclose(row['model'].heat, both['student_1'].heat, rtol=1e-3, atol=1e-5)
        assert row['difference'].caption == row['model'].caption == both['student_1'].caption


def test_sample_without_img_path_raises(masks):
    model, loader = masks
    dataset = copy.deepcopy(loader.dataset)
    dataset.pipeline.transforms[-1].meta_keys = ('id', 'ori_shape', 'img_shape', 'pad_shape')
    with pytest.raises(ValueError, match='expected img_path in its metainfo'):
        mask_rows(model, DataLoader(dataset, 8, collate_fn=loader.collate_fn))


def test_wrong_classes_are_not_true_positives(masks):
    """Four classes: hits, two kinds of errors, a wrong class and an ignored pixel."""
    model, loader = masks
    data = copy.deepcopy(loader.dataset)
    sample = data[0]['data_samples']
    height, width = sample.gt_sem_seg.shape
    truth, labels = torch.zeros(2, height, width, dtype=torch.long)
    truth[0, :5] = torch.tensor([1, 2, 3, 0, 255])
    labels[0, :5] = torch.tensor([1, 3, 0, 2, 1])
    sample.gt_sem_seg.data = truth[None]
    sample.pred_sem_seg = PixelData(data=labels[None])
    sample.seg_logits = PixelData(data=one_hot(labels, 4).permute(2, 0, 1).float())
    row = _mask_row(sample)
    colors = row['difference'].legend
    assert list(colors) == [*DIFFERENCE_COLORS, 'wrong class']
    expected = ['true positive', 'wrong class', 'false negative', 'false positive']
    for column, kind in enumerate(expected):
        painted = (255 * np.array(to_rgb(colors[kind]))).astype(int)
        assert (row['difference'].image[0, column] == painted).all()
    assert (row['difference'].image[0, 4] == row['difference'].image[0, 4, 0]).all()
    # Class 1 is found, class 2 and 3 have no pixel in common.
    assert row['difference'].caption == 'mean IoU 33.3 %, Dice 33.3 %'
