"""Data set of slices; see also ``tests/datasets/converters/test_nnunet.py``."""

import json
import logging
import pickle

import numpy as np
import pytest

from mmkdml.datasets import VolumeSliceDataset, convert_nnunet
from mmkdml.datasets.volumes import dataset as module


@pytest.fixture
def build(tmp_path, save_volumes, draw_cases):
    """Function that builds the training part of six volumes."""
    source = save_volumes(tmp_path / 'source', draw_cases())
    convert_nnunet(source, tmp_path / 'out')
    steps = [dict(type=f'mmkdml.{name}') for name in ('LoadVolumeSlice', 'LoadSliceLabel')]

    def build(**options):
        paths = dict(ann_file=f'{tmp_path}/out/train.csv', data_root=f'{tmp_path}/out/volumes')
        return VolumeSliceDataset(**{'pipeline': steps, **paths, **options})

    return build


def test_samples_survive_the_way_to_workers(build):
    dataset = build()
    other = pickle.loads(pickle.dumps(dataset))
    for index in (0, len(dataset) - 1):
        one, two = dataset[index], other[index]
        assert (one['img'] == two['img']).all()
        assert (one['gt_seg_map'] == two['gt_seg_map']).all()
        keys = ('case', 'slice', 'slices', 'spacing', 'case_intensity', 'id', 'group')
        assert [one[key] for key in keys] == [two[key] for key in keys]


def test_classes_are_those_of_the_manifest(build, monkeypatch):
    assert build().metainfo['classes'] == ('background', 'tumor')
    assert len(build().metainfo['palette']) == 2
    with pytest.raises(ValueError, match=r"expected .'background', 'tumor'.*got .'a', 'b'"):
        build(metainfo=dict(classes=('a', 'b')))
    warned = []
    monkeypatch.setattr(module, 'print_log', lambda *args: warned.append(args))
    build(image_cache='ram')
    assert warned == [
        ('VolumeSliceDataset: image_cache has no effect, because slices are not compressed',
         'current', logging.WARNING)
    ]  # fmt: skip


@pytest.mark.parametrize('key', ['axes', 'channels'])
def test_volumes_of_a_stopped_conversion_with_other_settings_are_refused(build, tmp_path, key):
    (path,) = (tmp_path / 'out' / 'volumes').glob('case_3.json')
    case = json.loads(path.read_text())
    case[key] = [0, 2, 1] if key == 'axes' else ['T2']
    path.write_text(json.dumps(case))
    parts = [dict(ann_file=f'{tmp_path}/out/{part}.csv') for part in ('train', 'val', 'test')]
    messages = []
    for options in parts:
        try:
            build(**options)
        except ValueError as error:
            messages.append(str(error))
    (message,) = messages
    assert 'case_3.json: expected' in message
    assert message.endswith('Run the converter again with --force')


def test_other_split_files_are_refused(build, tmp_path):
    path = tmp_path / 'out' / 'other' / 'train.csv'
    path.parent.mkdir()
    options = dict(ann_file=str(path), allow_outside=True)
    with pytest.raises(FileNotFoundError, match=r'other/train\.csv'):
        build(**options)
    path.write_text((tmp_path / 'out' / 'train.csv').read_text().replace('.npy#', '.png#'))
    with pytest.raises(ValueError, match=r'expected the classes in splits\.json next to it'):
        build(**options)
    classes = dict(classes=('background', 'tumor'))
    for name in (f'case_{case}.png#{number}' for case in range(6) for number in range(5)):
        (tmp_path / 'out' / 'volumes' / name).touch()
    with pytest.raises(ValueError, match=r'expected slices of volumes, such as CASE\.npy#12, got'):
        build(**options, metainfo=classes)


def test_normalization_is_that_of_the_manifest_unless_set(build, tmp_path):
    steps = [dict(type='mmkdml.LoadVolumeSlice'), dict(type='mmkdml.NormalizeVolume')]
    image = build(pipeline=steps)[0]['img']
    raw = build()[0]
    mean, std = raw['case_intensity'][0][:2]
    np.testing.assert_allclose(image, (raw['img'] - mean) / std, atol=1e-5)
    steps[1]['channels'] = [dict(name='T1', scheme='none')]
    assert (build(pipeline=steps)[0]['img'] == raw['img']).all()
