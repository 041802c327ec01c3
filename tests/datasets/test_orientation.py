"""EXIF orientation of images and masks, from conversion to prediction."""

import json

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile, Resize
from mmseg.datasets.transforms import LoadAnnotations
from PIL import Image, ImageOps

from mmkdml.apis.prediction.inputs import ReadOptions, find_sources, read_source
from mmkdml.datasets import LoadBinaryMask, LoadCheckedImage, SplitSegDataset
from mmkdml.datasets.converters import convert_folders, convert_ham10000
from mmkdml.datasets.images import read_binary_mask, read_header

LOAD = [dict(type=LoadCheckedImage), dict(type=LoadBinaryMask)]
WIDE, SQUARE = (24, 40), (32, 32)


def draw(root, orientation, drawn_on, shape, number=4, suffix='png', empty=False):
    """Write images with a bright blob, and masks of it."""
    for folder in ('images', 'masks'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for index in range(number):
        stored = np.random.default_rng(index).integers(0, 40, (*shape, 3)).astype(np.uint8)
        mask = np.zeros(shape, np.uint8)
        if not empty:
            mask[2:9, 3 + index : 20 + index] = 255
            stored[mask > 0] = 240
        exif = Image.Exif()
        exif[0x112] = orientation
        path = root / 'images' / f'{index}.{suffix}'
        Image.fromarray(stored).save(path, exif=exif)
        shown = Image.fromarray(mask)
        if drawn_on == 'shown':  # turned by Pillow
            shown.getexif()[0x112] = orientation
            shown = ImageOps.exif_transpose(shown)
        Image.fromarray(np.asarray(shown)).save(root / 'masks' / f'{index}.png')
    return root


def convert(root, **options):
    return convert_folders(root, root / 'splits', 'images', 'masks', **options)


def dataset(root, pipeline=LOAD, **options):
    return SplitSegDataset(
        ann_file=str(root / 'splits' / 'train.csv'),
        data_root=str(root),
        pipeline=pipeline,
        **options,
    )


def assert_fits(data, number=2):
    assert len(data) == number
    for index in range(len(data)):
        sample = data[index]
        np.testing.assert_array_equal(sample['img'].min(-1) > 128, sample['gt_seg_map'] > 0)


@pytest.mark.parametrize('shape', [WIDE, SQUARE])
@pytest.mark.parametrize('drawn_on', ['stored', 'shown'])
@pytest.mark.parametrize('orientation', range(1, 9))
def test_masks_fit_their_images_or_raise(tmp_path, orientation, drawn_on, shape):
    root = draw(tmp_path / 'data', orientation, drawn_on, shape)
    if orientation > 1 and (shape == SQUARE or orientation < 5):
        with pytest.raises(ValueError, match=f'masks/3.png: .* EXIF orientation {orientation}:'):
            convert(root)
        assert not (root / 'splits').exists()
        convert(root, masks_drawn_on=drawn_on)
        recorded = json.loads((root / 'splits' / 'splits.json').read_text())
        assert recorded['masks_drawn_on'] == drawn_on
    else:
        convert(root)
        assert 'masks_drawn_on' not in (root / 'splits' / 'splits.json').read_text()
    assert_fits(dataset(root))
    assert_fits(dataset(root, image_cache=dict(dir=str(tmp_path / 'cache'))))
    resized = dataset(
        root, [LOAD[0], dict(type=Resize, scale=(8, 8)), LOAD[1]]
    )  # as in test pipelines
    height, width = resized[0]['ori_shape']
    assert resized[0]['gt_seg_map'].shape == (height, width)
    stock = dataset(root, [dict(type=LoadImageFromFile), LOAD[1]])
    assert_fits(stock)


def test_data_set_can_set_masks_drawn_on(tmp_path):
    root = draw(tmp_path, 6, 'stored', SQUARE)
    convert(root, masks_drawn_on='stored')
    (root / 'splits' / 'splits.json').unlink()
    with pytest.raises(RuntimeError, match=r'sample 0 .*masks_drawn_on of the data set'):
        dataset(root)[0]
    assert_fits(dataset(root, masks_drawn_on='stored'))
    with pytest.raises(ValueError, match="masks_drawn_on: .* stored, shown, got 'both'"):
        dataset(root, masks_drawn_on='both')
    (root / 'splits' / 'splits.json').write_text('{"masks_drawn_on": 1}')
    with pytest.raises(ValueError, match=r'masks_drawn_on of .*\.csv: .* stored, shown, got 1'):
        dataset(root)


def test_each_masks_drawn_on_has_its_own_cache(tmp_path):
    root = draw(tmp_path / 'data', 3, 'stored', SQUARE)
    convert(root, masks_drawn_on='stored')
    cache = dict(dir=str(tmp_path / 'cache'))
    right, wrong = (
        dataset(root, masks_drawn_on=one, image_cache=cache)[0]['gt_seg_map']
        for one in ('stored', 'shown')
    )
    np.testing.assert_array_equal(right, np.rot90(wrong, 2))
    assert right.tolist() != wrong.tolist()


def test_a_cached_mask_follows_its_image(tmp_path):
    """The EXIF orientation of the image changes, but not the file of the mask."""
    root = draw(tmp_path / 'data', 6, 'stored', WIDE)
    convert(root)
    cached = [dataset(root, image_cache=dict(dir=str(tmp_path / 'cache'))) for _ in range(2)]
    assert_fits(cached[0])
    draw(root, 8, 'stored', WIDE)
    assert_fits(cached[1])
    assert_fits(dataset(root, image_cache=dict(dir=str(tmp_path / 'cache'))))


def test_sizes_that_contradict_masks_drawn_on_raise(tmp_path):
    root = draw(tmp_path, 6, 'shown', WIDE)
    with pytest.raises(
        ValueError, match=r"masks/0.png: .* shown .* but masks_drawn_on is 'stored'"
    ):
        convert(root, masks_drawn_on='stored')


def test_symmetric_masks_need_no_masks_drawn_on(tmp_path):
    root = draw(tmp_path, 3, 'stored', WIDE, empty=True)
    assert not any(row.label for part in convert(root).values() for row in part)


def test_mask_of_another_size_raises_in_training(tmp_path):
    root = draw(tmp_path, 1, 'stored', WIDE)
    convert(root)
    for path in (root / 'masks').iterdir():
        Image.new('L', (40, 23)).save(path)
    with pytest.raises(RuntimeError, match='the mask is 40x23, its image 40x24'):
        dataset(root)[0]


def test_loader_that_does_not_turn_masks_raises(tmp_path):
    root = draw(tmp_path, 6, 'stored', SQUARE)
    convert(root, masks_drawn_on='stored')
    pipeline = [LOAD[0], dict(type=LoadAnnotations)]
    with pytest.raises(RuntimeError, match='EXIF orientation 6 .*Use LoadClassMask'):
        dataset(root, pipeline)[0]
    draw(root, 1, 'stored', SQUARE)
    assert dataset(root, pipeline)[0]['gt_seg_map'].shape == SQUARE


def test_mask_follows_its_own_exif_orientation(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    mask = np.zeros(WIDE, np.uint8)
    mask[:5, :7] = 255
    for name in ('image', 'mask'):
        Image.fromarray(mask).save(tmp_path / f'{name}.png', exif=exif)
    header = read_header(tmp_path / 'image.png')
    assert (header.size, header.orientation, header.shown_size) == ((40, 24), 6, (24, 40))
    np.testing.assert_array_equal(
        read_binary_mask(tmp_path / 'mask.png', header), np.rot90(mask, -1) > 0
    )


def test_prediction_uses_shown_pixels(tmp_path):
    root = draw(tmp_path, 6, 'stored', WIDE)
    (source,) = find_sources(root / 'images' / '0.png')
    assert read_source(source, ReadOptions()).images == [None]  # loaded by the pipeline
    assert LoadCheckedImage()(dict(img_path=str(source.files[0])))['ori_shape'] == (40, 24)


def test_masks_drawn_on_without_masks_raises(tmp_path):
    with pytest.raises(ValueError, match="neither and no mask option, got .* 'shown'"):
        convert_folders(tmp_path, tmp_path / 'out', masks_drawn_on='shown')
    with pytest.raises(ValueError, match="expected None for task 'cls', got 'shown'"):
        convert_ham10000(tmp_path, tmp_path / 'out', 'cls', masks_drawn_on='shown')
