import json

import pytest
from mmengine.config import Config

from mmkdml.datasets.splits import SplitRow, fold_rows, read_split, write_folds, write_splits
from mmkdml.experiments.suites.execution.fold_data import check_folds, write_teachers

ROWS = [SplitRow(f'{g}{i}', f'{g}/{i}.tif', g, i % 2) for g in 'abcdefgh' for i in range(3)]


def config(folder, fold=0):
    loader = dict(dataset=dict(ann_file=str(folder / f'fold_{fold}' / 'train.csv')))
    return Config(dict(train_dataloader=loader))


@pytest.fixture
def splits(tmp_path):
    write_folds(tmp_path / 'splits', fold_rows(ROWS, 3), {})
    return tmp_path / 'splits'


def test_data_must_have_the_folds_of_the_suite(splits, tmp_path):
    check_folds(config(splits), 3)
    with pytest.raises(ValueError, match=r'folds: expected 5, .* got 3 in .*splits .*--folds 5'):
        check_folds(config(splits), 5)
    write_splits(tmp_path / 'one', dict(train=ROWS), {})
    loader = dict(dataset=dict(ann_file=str(tmp_path / 'one' / 'train.csv')))
    with pytest.raises(ValueError, match='expected 3, as in the suite, got 1'):
        check_folds(Config(dict(train_dataloader=loader)), 3)
    check_folds(config(tmp_path / 'missing'), 3)


def test_overlapping_test_splits_raise(splits):
    manifest = json.loads((splits / 'splits.json').read_text())
    del manifest['sha256']  # written by hand
    (splits / 'splits.json').write_text(json.dumps(manifest))
    path = splits / 'fold_1' / 'test.csv'
    text = (splits / 'fold_0' / 'test.csv').read_text().splitlines(True)
    twice = read_split(splits / 'fold_0' / 'test.csv')[-1].id
    path.write_text(text[0] + text[-1])
    with pytest.raises(ValueError, match=f'got {twice!r} in .*fold_0.* and .*fold_1'):
        check_folds(config(splits), 3)


def test_each_image_has_the_teacher_of_its_test_split(splits, tmp_path):
    work_dir = tmp_path / 'suite' / 'kd' / 'fold_1' / 'seed_0'
    work_dir.mkdir(parents=True)
    runs = [tmp_path / 'suite' / 'big' / name / 'seed_0' for name in ('fold_0_1', 'fold_1_2')]
    path = write_teachers(work_dir, config(splits, 1), [runs[0], None, runs[1]])
    content = json.loads(path.read_text())
    assert content['checkpoints'] == [
        f'../../../big/{name}/seed_0' for name in ('fold_0_1', 'fold_1_2')
    ]
    for index, fold in enumerate((0, 2)):
        for row in read_split(splits / f'fold_{fold}' / 'test.csv'):
            assert content['teacher_of'][row.id] == index
    train = {row.id for row in read_split(splits / 'fold_1' / 'train.csv')}
    assert train < content['teacher_of'].keys()
    assert not content['teacher_of'].keys() & {
        row.id for row in read_split(splits / 'fold_1' / 'test.csv')
    }
