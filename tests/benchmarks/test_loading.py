import itertools
import time

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset

from benchmarks import loading
from benchmarks.loading import (
    LoadingSpeed,
    ReadingSpeed,
    format_loading,
    format_reading,
    measure_loading,
    measure_reading,
)
from mmkdml.datasets import CachedLoading, LGGDataset


@pytest.fixture
def config(slices):
    dataset = dict(
        type='LGGDataset',
        data_root=str(slices[0]),
        ann_file=str(slices[1]),
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadBinaryMask'),
            dict(type='mmseg.PackSegInputs'),
        ],
    )
    return Config(
        dict(
            default_scope='mmkdml',
            train_dataloader=dict(
                batch_size=2,
                num_workers=4,
                persistent_workers=True,
                sampler=dict(type='DefaultSampler', shuffle=True),
                dataset=dataset,
            ),
        )
    )


def test_loaders_are_measured_on_the_same_images(config, monkeypatch):
    seen = []
    prepare = LGGDataset.prepare_data

    def recorded(self, index):
        cached = isinstance(self.pipeline.transforms[0], CachedLoading)
        seen.append((cached, self.get_data_info(index)['id']))
        time.sleep(0.01)
        return prepare(self, index)

    monkeypatch.setattr(LGGDataset, 'prepare_data', recorded)
    settings = config.to_dict()
    speeds = measure_loading(config, workers=[0, 1], batches=3, rounds=1)
    assert config.to_dict() == settings
    assert list(speeds) == [f'{n} workers, {kind}' for n in (0, 1) for kind in ('files', 'cache')]
    assert [(s.workers, s.cached) for s in speeds.values()] == [
        (workers, cached) for workers in (0, 1) for cached in (False, True)
    ]
    for speed in speeds.values():
        assert 0 < speed.images < 100  # each image takes at least 0.01 s
        assert speed.batch_seconds == pytest.approx(2 / speed.images)
    images = [{name for cached, name in seen if cached is kind} for kind in (False, True)]
    assert images[0] == images[1]
    assert len(images[0]) == 6  # without repetition
    assert len(seen) == 2 * 2 * 6  # in this process: two sources, a warm-up and a measured round


@pytest.mark.parametrize(
    ('numbers', 'message'),
    [
        (dict(workers=[]), r'workers: .*got \[\]'),
        (dict(workers=[0, -1]), r'workers: .*got \[0, -1\]'),
        (dict(batches=0), 'batches: .*got 0'),
        (dict(batches=9), 'at most 8 batches of 2 for 16 training images, got 9'),
        (dict(rounds=0), 'rounds: expected at least 1, got 0'),
    ],
)
def test_invalid_numbers_raise(config, numbers, message):
    with pytest.raises(ValueError, match=message):
        measure_loading(config, **{'workers': [0], 'batches': 1, 'rounds': 1, **numbers})


def test_other_data_set_raises(config, tmp_path):
    (tmp_path / 'a').mkdir()
    for name in 'xy':
        (tmp_path / 'a' / f'{name}.jpg').touch()
    config.train_dataloader.dataset = dict(type=CustomDataset, data_root=str(tmp_path))
    with pytest.raises(TypeError, match='image cache: expected .* split files'):
        measure_loading(config, workers=[0], batches=1, rounds=1)


def test_format_loading(cells_of):
    speeds = dict(a=LoadingSpeed(0, False, 100.0, 0.08), b=LoadingSpeed(2, True, 1600.4, 0.005))
    assert cells_of(format_loading(speeds)) == [
        ['workers', 'images from', 'images/s', 'ms/batch'],
        ['0', 'files', '100', '80.0'],
        ['2', 'cache', '1600', '5.0'],
    ]
    limits = [row[4] for row in cells_of(format_loading(speeds, 0.02))]
    assert limits == ['limits steps of 0.02 s', 'yes', 'no']


def broken(path, is_mask):
    raise RuntimeError(path)


def test_parts_and_decoders_are_measured_on_the_same_images(config, monkeypatch):
    """Each reading of the clock takes a second, and nothing else takes time."""
    read = []
    decoders = dict(
        broken=broken,
        unreadable=lambda path, is_mask: None,
        other=lambda path, is_mask: (read.append((path, is_mask)), 0)[1],
    )
    monkeypatch.setattr(loading, '_DECODERS', decoders)
    clock = itertools.count()
    monkeypatch.setattr(loading.time, 'process_time', lambda: next(clock))
    prepared = []
    transform = loading.LoadClassMask.transform
    monkeypatch.setattr(
        loading.LoadClassMask,
        'transform',
        lambda self, results: (prepared.append(results['img_path']), transform(self, results))[1],
    )
    speeds = measure_reading(config, batches=3, rounds=2)
    loaders = ['LoadImageFromFile', 'LoadBinaryMask']
    assert list(speeds) == ['whole pipeline', 'reading', *loaders, 'PackSegInputs', 'other']
    assert [speed.kind for speed in speeds.values()] == ['ours'] * 2 + ['transform'] * 3 + [
        'decoder'
    ]
    # Two readings of the clock per transform, and two around them; one interval for all images.
    assert [speed.seconds for speed in speeds.values()] == [7, 2, 1, 1, 1, 1 / 6]
    images, masks = ([path for path, is_mask in read if is_mask is kind] for kind in (False, True))
    assert len({*images}) == 6
    assert {*images} == {*prepared}
    assert len(images) == len(masks) == 3 * 6 + 1  # all rounds, and a trial


def test_decoders_return_the_pixels_of_our_reader(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (5, 7, 3), np.uint8)
    for name, image in (('image', pixels), ('mask', pixels[..., 0])):
        cv2.imwrite(str(tmp_path / f'{name}.png'), image)
    np.save(tmp_path / 'volume.npy', pixels)
    for name in ('OpenCV', 'Pillow'):
        decode = loading._DECODERS[name]
        assert np.array_equal(decode(f'{tmp_path}/image.png', False), pixels[..., ::-1])
        assert np.array_equal(decode(f'{tmp_path}/mask.png', True), pixels[..., 0])
    decode = loading._DECODERS['NumPy, memory-mapped']
    assert np.array_equal(decode(f'{tmp_path}/volume.npy#4', True), pixels[4])


@pytest.mark.parametrize(('path', 'names'), [('a.npy#1', 'NumPy'), ('a.png', 'OpenCV Pillow')])
def test_slices_of_volumes_have_their_own_decoder(tmp_path, path, names):
    cv2.imwrite(str(tmp_path / 'a.png'), np.zeros((4, 4), np.uint8))
    np.save(tmp_path / 'a.npy', np.zeros((2, 3, 3)))
    files = f'{tmp_path}/{path}', None
    found = {name for name, one in loading._DECODERS.items() if loading._supports(one, files)}
    assert {name.split(',')[0] for name in found} - {'torchvision.io'} == {*names.split()}


def test_invalid_numbers_of_readings_raise(config):
    with pytest.raises(ValueError, match='batches: .*got 0'):
        measure_reading(config, batches=0, rounds=1)
    with pytest.raises(ValueError, match='rounds: .*got 0'):
        measure_reading(config, batches=1, rounds=0)


def test_format_reading(cells_of):
    seconds = {'whole pipeline': 0.005, 'reading': 0.002, 'Resize': 0.001}
    speeds = {name: ReadingSpeed('ours', value) for name, value in seconds.items()}
    assert cells_of(format_reading({**speeds, 'OpenCV': ReadingSpeed('decoder', 0.0015)})) == [
        ['', 'time / reading', 'images/s', 'share of the pipeline'],
        ['whole pipeline', '2.50', '200', '100%'],
        ['reading', '1.00', '500', '40%'],
        ['Resize', '0.50', '1000', '20%'],
        ['OpenCV', '0.75', '667', ''],
    ]
