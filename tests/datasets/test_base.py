import traceback
from functools import partial

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.dataset import worker_init_fn
from mmpretrain.datasets import PackInputs
from mmseg.datasets import LoadAnnotations, PackSegInputs
from torch.utils.data import DataLoader

from mmkdml.datasets import LGGDataset, PCamDataset
from mmkdml.datasets.base import SplitClassificationDataset
from mmkdml.datasets.splits import SplitRow, write_splits

SEG = [dict(type=LoadImageFromFile), dict(type=LoadAnnotations), dict(type=PackSegInputs)]
CLASSIFY = [dict(type=LoadImageFromFile), dict(type=PackInputs)]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Images and masks under images/, split files under splits/, both relative to here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    rows = []
    for name in 'abcdef':
        cv2.imwrite(f'images/{name}.tif', np.full((8, 8, 3), 7, np.uint8))
        cv2.imwrite(f'images/{name}_mask.tif', np.zeros((8, 8), np.uint8))
        rows.append(SplitRow(name, f'{name}.tif', f'patient {name}', 0, f'{name}_mask.tif'))
    write_splits('splits', dict(train=rows), {})
    return tmp_path / 'images'


def build(cls, ann_file='splits/train.csv', data_root='images', **kwargs):
    pipeline = SEG if cls is LGGDataset else CLASSIFY
    return cls(ann_file=ann_file, data_root=data_root, pipeline=pipeline, **kwargs)


@pytest.mark.parametrize('cls', [LGGDataset, PCamDataset])
def test_ann_file_is_relative_to_the_working_directory(data, cls):
    for root in ('images', str(data), 'images/'):
        dataset = build(cls, data_root=root)
        assert len(dataset) == 6
        assert dataset.ann_file == 'splits/train.csv'
        info = dataset.get_data_info(1)
        assert (info['id'], info['group']) == ('b', 'patient b')
        assert 'images/b.tif' in info['img_path']
        assert dataset[1]['inputs'].shape == (3, 8, 8)


@pytest.mark.parametrize('cls', [LGGDataset, PCamDataset])
def test_the_frameworks_own_arguments_still_count(data, cls):
    assert len(build(cls, indices=2)) == 2
    assert not build(cls, lazy_init=True)._fully_initialized


@pytest.mark.parametrize('cls', [LGGDataset, PCamDataset])
def test_wrong_places_are_told_at_build(data, cls):
    with pytest.raises(FileNotFoundError, match='no split file splits/x.csv'):
        build(cls, ann_file='splits/x.csv')
    with pytest.raises(FileNotFoundError, match="train.csv is not at .*a.tif; .*got 'splits'"):
        build(cls, data_root='splits')


def truncate(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('test_mode', [False, True])
@pytest.mark.parametrize(
    ('cls', 'file', 'damage'),
    [
        (LGGDataset, 'd.tif', lambda path: path.unlink()),
        (LGGDataset, 'd.tif', truncate),
        (LGGDataset, 'd_mask.tif', lambda path: path.unlink()),
        (LGGDataset, 'd_mask.tif', truncate),
        (PCamDataset, 'd.tif', truncate),
        (PCamDataset, 'd.tif', lambda path: path.write_bytes(b'')),
    ],
)
def test_a_file_that_breaks_names_itself(data, workers, test_mode, cls, file, damage):
    loader = DataLoader(
        build(cls, test_mode=test_mode),
        batch_size=2,
        num_workers=workers,
        collate_fn=list,
        worker_init_fn=partial(worker_init_fn, num_workers=2, rank=0, seed=0),
    )
    assert len(list(loader)) == 3
    damage(data / file)
    with pytest.raises(
        RuntimeError,
        match=f'{cls.__name__}: sample 3 .*images/{file}.* of '
        'splits/train.csv could not be prepared',
    ) as caught:
        list(loader)
    traceback.clear_frames(caught.tb)  # or the loader waits 5 s for each worker


def test_a_label_without_class(data):
    write_splits('more', dict(train=[SplitRow('a', 'a.tif', 'g', 2)]), {})
    with pytest.raises(ValueError, match="more/train.csv: label 2 of 'a' is none of the 2 classes"):
        build(PCamDataset, ann_file='more/train.csv')


def test_without_classes_any_label_will_do(data):
    write_splits('more', dict(train=[SplitRow('a', 'a.tif', 'g', 2)]), {})
    dataset = build(SplitClassificationDataset, ann_file='more/train.csv')
    assert dataset.get_gt_labels().tolist() == [2]
