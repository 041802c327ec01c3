import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmpretrain.datasets import PackInputs

from mmkdml.datasets import ChestXray14Dataset, SplitMultiLabelDataset
from mmkdml.datasets.splits import SplitRow, write_splits

PIPELINE = [dict(type=LoadImageFromFile), dict(type=PackInputs)]
FINDINGS = (('Mass', 'Effusion'), (), ('Effusion',))

pytestmark = pytest.mark.usefixtures('labelled')


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    rows = [
        SplitRow(name, f'{name}.png', f'p{name}', int(bool(names)), labels=names)
        for name, names in zip('abc', FINDINGS, strict=True)
    ]
    for row in rows:
        cv2.imwrite(f'images/{row.path}', np.full((8, 8), 7, np.uint8))
    write_splits('labelled', dict(train=rows), {})
    write_splits('single', dict(train=[SplitRow('a', 'a.png', 'p', 0)]), {})


def build(cls, folder='labelled', **options):
    return cls(ann_file=f'{folder}/train.csv', data_root='images', pipeline=PIPELINE, **options)


@pytest.mark.parametrize(
    'classes', [('Effusion', 'Mass', 'Hernia'), ('Mass', 'Hernia', 'Effusion')]
)
def test_labels_follow_the_order_of_the_classes(classes):
    dataset = build(SplitMultiLabelDataset, metainfo=dict(classes=classes))
    for index, names in enumerate(FINDINGS):
        sample = dataset[index]['data_samples']
        assert [classes[k] for k in sample.gt_label] == sorted(names, key=classes.index)
        assert sample.gt_score.tolist() == [float(name in names) for name in classes]
        assert dataset.get_cat_ids(index) == sample.gt_label.tolist()
    assert dataset.metainfo['multi_label'] is True


def test_classes_of_the_nih():
    dataset = build(ChestXray14Dataset)
    assert len(dataset.metainfo['classes']) == 14
    assert dataset.metainfo['multi_label'] is True
    assert dataset[0]['data_samples'].gt_label.tolist() == [2, 4]


def test_unknown_labels_raise():
    with pytest.raises(ValueError, match=r"labels of 'a'.*'Effusion',.*got \['Mass'\]"):
        build(SplitMultiLabelDataset, metainfo=dict(classes=('Effusion',)))


def test_split_files_without_labels_raise():
    with pytest.raises(ValueError, match='column labels, got none.*SplitClassificationDataset'):
        build(SplitMultiLabelDataset, 'single', metainfo=dict(classes=('Mass',)))
