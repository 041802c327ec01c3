import csv

import numpy as np
import pytest

from mmkdml.datasets.converters import pcam_rows
from mmkdml.datasets.splits import SplitRow


@pytest.fixture
def pcam(tmp_path, save):
    """Twelve tiles, every third with metastasis."""
    source = tmp_path / 'pcam'
    for index in range(12):
        save(source / 'train' / f'{index:02}.tif', np.full((4, 4, 3), index))
    write_labels(source, [f'{index:02},{int(index % 3 == 0)}' for index in range(12)])
    return source


def write_labels(source, lines, header='id,label'):
    (source / 'train_labels.csv').write_text('\n'.join([header, *lines]) + '\n')


def test_pcam_rows(pcam):
    rows = pcam_rows(pcam)
    assert len(rows) == 12
    assert rows[3] == SplitRow(id='03', path='train/03.tif', group='03', label=1, mask=None)


def test_pcam_subset_is_balanced_and_reproducible(pcam):
    chosen = [tuple(row.id for row in pcam_rows(pcam, 6, seed)) for seed in range(10)]
    for ids in chosen:
        assert len(set(ids)) == 6
        assert sum(int(name) % 3 == 0 for name in ids) == 3
    assert pcam_rows(pcam, 6, 2) == pcam_rows(pcam, 6, 2)
    assert len(set(chosen)) > 3
    assert len(pcam_rows(pcam, 8)) == 8


@pytest.mark.parametrize(
    ('subset', 'message'),
    [
        (10, 'subset 10: expected 5 images of each class, got 8 normal and 4 metastasis'),
        (3, 'an even number .* got 3'),
        (-2, 'an even number .* got -2'),
    ],
)
def test_invalid_pcam_subsets_raise(pcam, subset, message):
    with pytest.raises(ValueError, match=message):
        pcam_rows(pcam, subset)


@pytest.mark.parametrize(
    ('lines', 'message'),
    [
        (['00,0'], r'train/01.tif: no row in train_labels.csv'),
        ([f'{i:02},0' for i in range(13)], 'train_labels.csv: no image train/12.tif'),
        ([f'{i:02},0' for i in (*range(12), 5)], 'train_labels.csv, line 14: duplicate id 05'),
        (
            [f'{i:02},{i}' for i in range(3)],
            "line 4: expected an id and the label 0 or 1, got '02,2'",
        ),
        (['00,0,1'], 'line 2: expected 2 values, got 3'),
        ([',1'], "line 2: expected .* got ',1'"),
    ],
)
def test_invalid_pcam_labels_raise(pcam, lines, message):
    write_labels(pcam, lines)
    with pytest.raises(ValueError, match=message):
        pcam_rows(pcam)


def test_pcam_labels_with_other_columns_raise(pcam):
    write_labels(pcam, [], header='image,class')
    with pytest.raises(ValueError, match="train_labels.csv, line 1: .* id,label, got 'image"):
        pcam_rows(pcam)


def test_invalid_pcam_images_raise(pcam, save):
    (pcam / 'train' / '04.tif').write_bytes(b'no image')
    save(pcam / 'train' / '05.tif', np.zeros((4, 4)))
    with pytest.raises(ValueError, match=r'train/04.tif: unreadable image (.*\n)*.*train/05.tif'):
        pcam_rows(pcam)


def test_pcam_tool(pcam, tmp_path, run_tool, capsys):
    run_tool('pcam.py', pcam, '--out', tmp_path / 'half', '--subset', '8')
    run_tool('pcam.py', pcam, '--out', tmp_path / 'all', '--subset', 'all')
    for name, number in (('half', 8), ('all', 12)):
        ids = [
            line['id']
            for split in ('train', 'val', 'test')
            for line in csv.DictReader((tmp_path / name / f'{split}.csv').open())
        ]
        assert len(set(ids)) == len(ids) == number
    assert 'configs/kdml/r50_r18x2_v3_pcam.py' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='got 8 normal and 4 metastasis'):
        run_tool('pcam.py', pcam, '--out', tmp_path / 'more')  # 20000 by default


def test_missing_source_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match='x is not a folder; expected the folder'):
        pcam_rows(tmp_path / 'x')
    with pytest.raises(FileNotFoundError, match='no train_labels.csv in '):
        pcam_rows(tmp_path)
    write_labels(tmp_path, [])
    with pytest.raises(FileNotFoundError, match='train'):
        pcam_rows(tmp_path)
    (tmp_path / 'train').mkdir()
    with pytest.raises(ValueError, match='no train/<id>.tif in '):
        pcam_rows(tmp_path)


def test_capital_suffixes_and_tabs(pcam, tmp_path):
    labels = pcam / 'train_labels.csv'
    (pcam / 'train_labels.tab').write_text(labels.read_text().replace(',', '\t'))
    labels.unlink()
    (pcam / 'train' / '03.tif').rename(pcam / 'train' / '03.TIF')
    (pcam / 'train').rename(tmp_path / 'tiles')
    (pcam / 'train').symlink_to(tmp_path / 'tiles')
    rows = pcam_rows(pcam)
    assert [row.label for row in rows] == [1, 0, 0] * 4
    assert rows[3].path == 'train/03.TIF'


def test_folds(pcam, tmp_path, run_tool, capsys):
    run_tool('pcam.py', pcam, '--out', tmp_path / 'out', '--subset', 8, '--folds', 2)
    printed = capsys.readouterr().out
    table = [line.split() for line in printed.splitlines()[:10]]
    assert table[0] == ['split', 'images', 'groups', 'positives']
    tests = [row for row in table if row and row[0].endswith('/test')]
    assert [row[:3] for row in tests] == [[f'fold_{fold}/test', '4', '4'] for fold in range(2)]
    assert [row[3] for row in tests] == ['2', '2']
    assert ' --fold 0 --cfg-options' in printed
    assert f'{tmp_path / "out" / "train.csv"}' in printed
