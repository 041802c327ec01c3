import time

import pytest
from mmengine.config import Config
from mmpretrain.datasets import CustomDataset

from benchmarks.loading import LoadingSpeed, format_loading, measure_loading
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
        (dict(workers=[]), r'got \[\] and 1'),
        (dict(workers=[0, -1]), r'got \[0, -1\] and 1'),
        (dict(batches=0), r'got \[0\] and 0'),
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
