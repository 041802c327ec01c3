import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import PackInputs
from mmseg.datasets.transforms import LoadAnnotations, PackSegInputs, Resize
from mmseg.models import SegDataPreProcessor
from PIL import Image

from mmkdml.datasets import LGGDataset, LGGSliceDataset
from mmkdml.datasets.splits import SplitRow, write_splits
from mmkdml.registry import DATASETS

LOAD = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations)]
PACK = dict(type=PackSegInputs, meta_keys=('img_path', 'ori_shape', 'img_shape', 'id', 'group'))


@pytest.fixture
def slices(tmp_path):
    """Two slices of 8x6 random pixels, with masks of {0, 255} and of {0, 1}."""
    rgb = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    mask = np.zeros((8, 6), np.uint8)
    mask[2:5, 1:3] = 1
    rows = []
    for name, high in (('a', 255), ('b', 1)):
        Image.fromarray(rgb).save(tmp_path / f'{name}.tif')
        Image.fromarray(mask * high).save(tmp_path / f'{name}_mask.tif')
        rows.append(SplitRow(name, f'{name}.tif', 'P1', int(name == 'a'), f'{name}_mask.tif'))
    write_splits(tmp_path, dict(train=rows), {})
    return tmp_path, rgb, mask


def build(folder, pipeline, cls=LGGDataset, **kwargs):
    return DATASETS.build(
        dict(
            type=cls,
            data_root=str(folder),
            pipeline=pipeline,
            ann_file=str(folder / 'train.csv'),
            **kwargs,
        )
    )


@pytest.mark.parametrize('index', [0, 1])
def test_maps_are_0_and_1_for_any_mask_values(slices, index):
    folder, _, mask = slices
    dataset = build(folder, [*LOAD, PACK])
    for _ in range(2):  # reading does not change the data set
        sample = dataset[index]['data_samples']
        assert np.array_equal(sample.gt_sem_seg.data.numpy(), mask[None])
    assert (sample.id, sample.group, sample.ori_shape) == ('ab'[index], 'P1', (8, 6))


@pytest.mark.parametrize('compression', [None, 'tiff_lzw', 'tiff_adobe_deflate'])
@pytest.mark.parametrize('writer', ['pillow', 'opencv'])
def test_network_receives_the_channels_in_file_order(slices, compression, writer):
    folder, rgb, _ = slices
    path = str(folder / 'a.tif')
    if writer == 'pillow':
        Image.fromarray(rgb).save(path, compression=compression)
    else:
        code = {None: 1, 'tiff_lzw': 5, 'tiff_adobe_deflate': 8}[compression]
        assert cv2.imwrite(path, rgb[..., ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, code])
    packed = build(folder, [*LOAD, PACK])[0]
    batch = SegDataPreProcessor(mean=[0] * 3, std=[1] * 3, bgr_to_rgb=True, size=(8, 6))(
        dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    )
    assert torch.equal(batch['inputs'][0], torch.from_numpy(rgb).permute(2, 0, 1).float())


def test_resize_before_annotations_keeps_mask_size(slices):
    folder, _, mask = slices
    load_image, load_mask = LOAD
    dataset = build(
        folder, [load_image, dict(type=Resize, scale=(12, 16)), load_mask, PACK], test_mode=True
    )
    packed = dataset[0]
    assert packed['inputs'].shape == (3, 16, 12)
    assert np.array_equal(packed['data_samples'].gt_sem_seg.data[0], mask)


def test_meta_information(slices):
    dataset = build(slices[0], [], lazy_init=True)
    assert dataset.metainfo['classes'] == ('background', 'tumour')
    assert len(dataset.metainfo['palette']) == 2
    assert dataset.metainfo['reduce_zero_label'] is False


def test_wrong_number_of_classes_raises(slices):
    with pytest.raises(ValueError, match=r"expected two classes.*got \('tumour',\)"):
        build(slices[0], LOAD, metainfo=dict(classes=('tumour',)))


def test_split_file_without_masks_raises(slices):
    folder = slices[0]
    write_splits(folder, dict(train=[SplitRow('a', 'a.tif', 'g', 0)]), {}, force=True)
    with pytest.raises(ValueError, match='train.csv: expected a column mask'):
        build(folder, LOAD)


def test_slice_labels_come_from_the_split_file(slices):
    dataset = build(
        slices[0], [dict(type=LoadImageFromFile), dict(type=PackInputs)], LGGSliceDataset
    )
    assert dataset.CLASSES == ('no tumour', 'tumour')
    assert [dataset[i]['data_samples'].gt_label.item() for i in (0, 1)] == [1, 0]
    assert dataset[0]['inputs'].shape == (3, 8, 6)
