import pickle

import numpy as np
import pytest
from mmcv.transforms import Resize

from mmkdml.datasets import (
    AlbumentationsTransform,
    LoadSliceLabel,
    LoadVolumeSlice,
    NormalizeVolume,
)

T1, CT = (
    dict(name='T1', scheme='zscore'),
    dict(name='CT', scheme='ct', mean=10.0, std=2.0, low=0.0, high=20.0),
)


@pytest.fixture
def stored(tmp_path):
    random = np.random.default_rng(0)
    np.save(tmp_path / 'a.npy', random.integers(0, 999, (4, 2, 6, 5)).astype(np.int16))
    np.save(tmp_path / 'a_label.npy', random.integers(0, 3, (4, 6, 5)).astype(np.uint8))
    return dict(
        img_path=f'{tmp_path}/a.npy#1', seg_map_path=f'{tmp_path}/a_label.npy#1', seg_fields=[],
        case_intensity=[(5.0, 2.0), (0.0, 1.0)],
    )  # fmt: skip


def test_slice_is_float32_in_the_unit_of_the_file(stored):
    load = pickle.loads(pickle.dumps(LoadVolumeSlice(context=1)))
    results = load(dict(stored))
    volume = np.load(stored['img_path'][:-2])
    assert results['img'].dtype == np.float32
    assert (results['img'].transpose(2, 0, 1) == volume[:3].reshape(6, 6, 5)).all()
    assert results['img_shape'] == results['ori_shape'] == (6, 5)


def test_label_is_a_map_of_mmseg(stored):
    results = LoadSliceLabel()(dict(stored))
    assert (results['gt_seg_map'] == np.load(stored['seg_map_path'][:-2])[1]).all()
    assert results['seg_fields'] == ['gt_seg_map']


def test_each_channel_of_each_neighbor_is_normalized_by_its_scheme(stored):
    results = LoadVolumeSlice(context=1)(dict(stored))
    before = results['img'].copy()
    after = NormalizeVolume([T1, CT])(results)['img']
    assert after.dtype == np.float32
    for channel in range(6):
        own = before[..., channel]
        expected = (np.clip(own, 0, 20) - 10) / 2 if channel % 2 else (own - 5) / 2
        np.testing.assert_allclose(after[..., channel], expected, rtol=1e-6)


@pytest.mark.parametrize('channels', [1, 4, 13])
def test_any_number_of_channels_is_resized_and_augmented(channels):
    """OpenCV limits some operations to four channels."""
    image = np.random.default_rng(0).normal(size=(6, 5, channels)).astype(np.float32)
    results = dict(img=image, gt_seg_map=np.ones((6, 5), np.uint8), seg_fields=['gt_seg_map'])
    flip = AlbumentationsTransform([dict(type='HorizontalFlip', p=1.0)])
    affine = AlbumentationsTransform([dict(type='Affine', rotate=(20, 20), p=1.0)])
    flipped = flip(dict(results, img=image.copy()))['img']
    assert (flipped == image[:, ::-1]).all()
    found = affine(Resize((32, 16))(results))
    assert np.atleast_3d(found['img']).shape == (16, 32, channels)
    assert found['gt_seg_map'].shape == (16, 32)
    assert found['img'].min() < 0  # not clipped


def test_invalid_arguments_are_refused():
    with pytest.raises(ValueError, match='context.*got -1'):
        LoadVolumeSlice(context=-1)
    with pytest.raises(ValueError, match='axis.*got 5'):
        LoadVolumeSlice(axis=5)
    with pytest.raises(ValueError, match='scheme of channel T1.*got None'):
        NormalizeVolume([dict(name='T1')])
    with pytest.raises(ValueError, match='channel CT.*std'):
        NormalizeVolume([dict(name='CT', scheme='ct', mean=0, low=0, high=1)])


def test_channels_and_statistics_must_fit_the_image(stored):
    image = dict(img=np.zeros((2, 2, 3), np.float32))
    with pytest.raises(ValueError, match='channels of NormalizeVolume.*got none'):
        NormalizeVolume()(dict(image))
    with pytest.raises(ValueError, match=r'\(2, 2, 3\).*2 channels T1, CT'):
        NormalizeVolume([T1, CT])(dict(image))
    with pytest.raises(ValueError, match='case_intensity.*1 channels, got 2'):
        NormalizeVolume([T1])(dict(image, case_intensity=[(0, 1)] * 2))
