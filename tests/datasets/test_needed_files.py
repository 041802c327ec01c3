import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mmkdml.datasets
from mmkdml.apis import load_config
from mmkdml.commands import command_tools
from mmkdml.datasets import SplitFileMixin, SplitSegDataset, convert_lgg, make_demo_data
from mmkdml.datasets.needed_files import needed_files
from mmkdml.datasets.splits import SplitRow, write_folds, write_splits

ROOT = Path(__file__).parents[2]
BASE = 'configs/_base_/datasets'


@pytest.fixture
def lgg(tmp_path):
    """Settings of the loaders of converted slices."""
    source = make_demo_data(tmp_path / 'kaggle_3m', patients=4, slices=2, size=32)
    convert_lgg(source, tmp_path / 'splits')
    data = dict(type='LGGDataset', data_root=str(source))
    return [
        dict(dataset=dict(data, ann_file=str(tmp_path / 'splits' / f'{part}.csv')))
        for part in ('train', 'val', 'test')
    ]


def missing(settings, folds=None):
    return [file for one in needed_files(settings, folds) for file in one.missing()]


def test_converted_data_are_complete(lgg):
    assert len(list(needed_files(lgg))) == 3
    assert missing(lgg) == []


def test_missing_split_file_and_folder_of_images_are_listed(lgg, tmp_path):
    (tmp_path / 'splits' / 'val.csv').unlink()
    assert missing(lgg) == [str(tmp_path / 'splits' / 'val.csv')]
    (tmp_path / 'kaggle_3m').rename(tmp_path / 'moved')
    assert missing(lgg[0]) == [str(tmp_path / 'kaggle_3m')]


def test_folder_without_the_images_of_the_split_files_is_found(lgg, tmp_path):
    (tmp_path / 'kaggle_3m').rename(tmp_path / 'moved')
    (tmp_path / 'kaggle_3m').mkdir()
    (image,) = missing(lgg[0])
    assert image.startswith(f'{tmp_path}/kaggle_3m/')
    assert (tmp_path / 'moved' / Path(image).relative_to(tmp_path / 'kaggle_3m')).is_file()


def test_slices_are_in_the_file_of_their_volume(tmp_path):
    (tmp_path / 'volumes').mkdir()
    split = SplitRow('a_0', 'a.npy#0', 'a', 0, 'a_label.npy#0')
    write_splits(tmp_path, dict(train=[split]), {})
    data = dict(type='VolumeSliceDataset', data_root=str(tmp_path / 'volumes'))
    data |= dict(ann_file=str(tmp_path / 'train.csv'))
    assert missing(data) == [str(tmp_path / 'volumes' / 'a.npy')]
    np.save(tmp_path / 'volumes' / 'a.npy', np.zeros(1))
    assert missing(data) == []
    (one,) = needed_files(data)
    assert one.command.endswith(f'SOURCE --out {tmp_path}')  # the converter writes the images, too


def test_boxes_are_needed_above_the_folder_of_a_fold(tmp_path):
    pytest.importorskip('mmdet')
    Image.new('RGB', (4, 4)).save(tmp_path / 'a.png')
    a, b = (SplitRow(name, f'{name}.png', name, 0) for name in 'ab')
    write_folds(tmp_path / 'splits', [dict(train=[b], test=[a]), dict(train=[a], test=[b])], {})
    fold = tmp_path / 'splits' / 'fold_1' / 'train.csv'
    data = dict(type='BCCDDataset', data_root=str(tmp_path), ann_file=str(fold))
    assert missing(data) == [str(tmp_path / 'splits' / 'annotations.json')]
    assert missing(data | dict(boxes_file='other.json')) == ['other.json']
    (tmp_path / 'splits' / 'annotations.json').touch()
    assert missing(data, folds=2) == []
    assert missing(data | dict(without='fold_2/test.csv')) == ['fold_2/test.csv']
    (one,) = needed_files(data, folds=2)
    assert one.command.endswith(f'{tmp_path} --out {tmp_path}/splits --folds 2')


def test_wrapped_data_sets_are_found_and_others_left_out(lgg):
    class OwnFiles(SplitSegDataset):
        def load_data_list(self):
            return []

    class OwnClasses(SplitSegDataset):
        METAINFO = dict(classes=('a', 'b'))

    gone = dict(data_root='gone', ann_file='gone/train.csv')
    wrapped = dict(
        type='RepeatDataset',
        dataset=dict(
            type='ConcatDataset', datasets=[lgg[0]['dataset'], dict(gone, type=OwnClasses)]
        ),
    )
    assert missing(dict(dataset=wrapped)) == ['gone', 'gone/train.csv']
    for kind in (OwnFiles, 'NoSuchDataset', 'mmpretrain.CustomDataset', None):
        assert list(needed_files(dict(gone, type=kind))) == []
    assert list(needed_files(dict(dataset=dict(type='LGGDataset')))) == []
    assert list(needed_files(None)) == []


@pytest.mark.parametrize(
    ('config', 'command'),
    [
        ('lgg', 'lgg data/lgg/kaggle_3m --out data/lgg/splits'),
        ('lgg_slices', 'lgg data/lgg/kaggle_3m --out data/lgg/splits'),
        ('pcam', 'pcam data/pcam/histopathologic-cancer-detection --out data/pcam/splits'),
        ('nih', 'multi-label data/nih/published --out data/nih/splits'),
        *(
            (
                f'ham10000_{task}',
                f'ham10000 data/ham10000/published --out data/ham10000/splits_{task} --task {task}',
            )
            for task in ('cls', 'seg')
        ),
        ('volumes', 'nnunet SOURCE --out data/volumes'),
    ],
)
def test_command_is_that_of_the_converter(monkeypatch, tmp_path, config, command):
    loaded = load_config(ROOT / BASE / f'{config}.py')
    monkeypatch.chdir(tmp_path)
    loaders = [loaded[f'{part}_dataloader'] for part in ('train', 'val', 'test')]
    assert {one.command for one in needed_files(loaders)} == {f'mmkdml convert {command}'}


def test_command_begins_with_the_demo_data_where_they_are_needed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (one,) = needed_files(
        dict(type='LGGDataset', data_root='data/demo/kaggle_3m', ann_file='data/demo/splits/t.csv')
    )
    demo, convert = one.command.split(' && ')
    assert demo == 'mmkdml convert demo data/demo/kaggle_3m'
    assert convert == 'mmkdml convert lgg data/demo/kaggle_3m --out data/demo/splits'


def test_converters_of_all_data_sets_exist():
    kinds = [
        getattr(mmkdml.datasets, name) for name in mmkdml.datasets.__all__ if 'Dataset' in name
    ]
    kinds = [kind for kind in kinds if issubclass(kind, SplitFileMixin)]
    assert len(kinds) > 8
    tools = {path.stem for path in command_tools().values()}
    for kind in kinds:
        name, *options = shlex.split(kind.converter)
        assert name in tools
        text = (ROOT / 'tools' / 'dataset_converters' / f'{name}.py').read_text()
        assert all(option in text for option in options if option.startswith('--'))
