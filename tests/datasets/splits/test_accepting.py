import json
import shutil

import pytest

from mmkdml.datasets.splits import SplitRow, accept_splits, fold_rows, read_split, write_folds

ROWS = [SplitRow(f'{g}{i}', f'{g}/{i}.tif', g, i % 2) for g in 'abcdefgh' for i in range(3)]


@pytest.fixture
def folds(tmp_path):
    write_folds(tmp_path, fold_rows(ROWS, 3, (60, 40, 0)), dict(dataset='x', split_by='patient'))
    return tmp_path


def move(folder, line, source, target):
    """Move a row to another file."""
    for name, change in ((source, lambda t: t.replace(line, '')), (target, lambda t: t + line)):
        path = folder / name
        path.write_text(change(path.read_text()))


def lines_of(path, group):
    return [line for line in path.read_text().splitlines(True)[1:] if line.split(',')[2] == group]


def test_edited_folds_are_accepted(folds):
    group = read_split(folds / 'fold_0' / 'val.csv')[0].group
    for line in lines_of(folds / 'fold_0' / 'val.csv', group):
        move(folds, line, 'fold_0/val.csv', 'fold_0/train.csv')
    with pytest.raises(ValueError, match='fold_0'):
        read_split(folds / 'fold_0' / 'train.csv')
    found = accept_splits(folds / 'fold_1')  # of all folds
    assert group in {row.group for row in found['fold_0/train']}
    assert len(found) == 9
    manifest = json.loads((folds / 'splits.json').read_text())
    assert (manifest['folds'], manifest['edited'], manifest['dataset']) == (3, True, 'x')
    assert manifest['counts']['fold_0']['val']['groups'] == 1
    for name, rows in found.items():
        assert read_split(folds / f'{name}.csv') == rows


def test_folds_written_by_hand_are_accepted(folds):
    (folds / 'splits.json').unlink()
    assert len(accept_splits(folds)) == 9
    assert json.loads((folds / 'splits.json').read_text())['folds'] == 3


def test_invalid_edits_of_folds_are_not_accepted(folds):
    before = (folds / 'splits.json').read_bytes()
    group = read_split(folds / 'fold_0' / 'test.csv')[0].group
    first, *others = lines_of(folds / 'fold_0' / 'test.csv', group)
    move(folds, first, 'fold_0/test.csv', 'fold_0/train.csv')
    with pytest.raises(ValueError, match=f'group {group!r} is in train and in test'):
        accept_splits(folds)
    with pytest.raises(ValueError, match='in 0'), pytest.warns(UserWarning, match='Metrics'):
        accept_splits(folds, split_by='image')
    for line in others:
        move(folds, line, 'fold_0/test.csv', 'fold_0/train.csv')
    with pytest.raises(ValueError, match='each image in the test split of one'):
        accept_splits(folds)
    assert (folds / 'splits.json').read_bytes() == before


def test_missing_folds_are_not_accepted(folds):
    shutil.rmtree(folds / 'fold_1')
    with pytest.raises(ValueError, match='folds 0 to K - 1'):
        accept_splits(folds)
