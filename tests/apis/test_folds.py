import json
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkdml.apis import set_fold
from mmkdml.apis.folds import fold_test_files, left_out_options
from mmkdml.apis.run.options import StartOptions, training_config
from mmkdml.apis.run.settings import changed_settings, deciding_settings
from mmkdml.datasets.splits import SplitRow, fold_rows, write_folds, write_splits

DEMO = Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py'
ROWS = [SplitRow(f'{g}{i}', f'{g}/{i}.tif', g, i % 2) for g in 'abcdefgh' for i in range(3)]
PARTS = ('train', 'val', 'test')


@pytest.fixture
def splits(tmp_path):
    write_folds(tmp_path / 'splits', fold_rows(ROWS, 3), {})
    return tmp_path / 'splits'


def config_of(splits):
    def loader(part):
        return dict(dataset=dict(type='X', ann_file=str(splits / f'{part}.csv')))

    wrapped = dict(type='Repeat', dataset=loader('train')['dataset'])
    return Config(
        dict(
            train_dataloader=dict(dataset=dict(datasets=[wrapped])),
            val_dataloader=loader('val'),
            test_dataloader=loader('test'),
            other=dict(ann_file=str(splits / 'train.csv')),
        )
    )


def files(config):
    (train,) = config.train_dataloader.dataset.datasets
    datasets = train.dataset, config.val_dataloader.dataset, config.test_dataloader.dataset
    return [one.ann_file for one in datasets], [one.get('without') for one in datasets]


def test_all_data_sets_read_the_fold(splits):
    config = config_of(splits)
    for fold in (1, 2):  # the second one replaces the first
        set_fold(config, fold)
        expected = [str(splits / f'fold_{fold}' / f'{part}.csv') for part in PARTS]
        assert files(config) == (expected, [None] * 3)
    assert config.other.ann_file == str(splits / 'train.csv')
    assert fold_test_files(config) == [splits / f'fold_{fold}' / 'test.csv' for fold in range(3)]


def test_test_images_of_another_fold_are_left_out_of_training_and_validation(splits):
    config = config_of(splits)
    set_fold(config, 0, without=2)
    left_out = str(splits / 'fold_2' / 'test.csv')
    assert files(config)[1] == [left_out, left_out, None]
    options = left_out_options(config)
    assert [*options.values()] == [left_out] * 2
    again = config_of(splits)
    set_fold(again, 0)
    assert left_out_options(again) == {}
    again.merge_from_dict(options)  # also of the wrapped data set
    assert files(again) == files(config)


@pytest.mark.parametrize('fold', [-1, 3, 99])
def test_unknown_fold_raises(splits, fold):
    with pytest.raises(ValueError, match=f'fold of .*splits: expected 0 to 2, got {fold}'):
        set_fold(config_of(splits), fold)


def test_a_single_split_and_other_data_have_no_folds(tmp_path):
    write_splits(tmp_path, dict(train=ROWS), {})
    with pytest.raises(ValueError, match='expected folds, got a single split.*--folds'):
        set_fold(config_of(tmp_path), 0)
    assert fold_test_files(config_of(tmp_path)) == [tmp_path / 'test.csv']
    with pytest.raises(ValueError, match='got none. Set ann_file'):
        set_fold(Config(dict(train_dataloader=dict(dataset=dict(ann_file='coco.json')))), 0)
    set_fold(missing := config_of(tmp_path / 'missing'), 7)  # data of another machine
    assert files(missing)[0][0] == str(tmp_path / 'missing' / 'fold_7' / 'train.csv')


def options_of(splits):
    return {f'{part}_dataloader.dataset.ann_file': str(splits / f'{part}.csv') for part in PARTS}


def test_default_folder_of_a_fold_is_below_that_of_the_config(splits, tmp_path):
    given = StartOptions(options_of(splits), fold=2)
    config, options, _ = training_config(DEMO, given)
    without, _, _ = training_config(DEMO, StartOptions(options_of(splits)))
    assert Path(config.work_dir) == Path(without.work_dir) / 'fold_2'
    assert config.train_dataloader.dataset.ann_file == str(splits / 'fold_2' / 'train.csv')
    assert '--fold 2' in str(options)
    config, _, _ = training_config(DEMO, given, tmp_path / 'own')
    assert config.work_dir == str(tmp_path / 'own')


def test_resuming_keeps_the_fold_and_another_one_is_a_change(splits, tmp_path):
    run = tmp_path / 'run'
    given = StartOptions(options_of(splits), fold=1)
    config, options, _ = training_config(DEMO, given, run)
    run.mkdir()
    config.dump(run / DEMO.name)
    identity = dict(id='x', config=DEMO.name, start=options.record())
    (run / 'identity.json').write_text(json.dumps(identity))
    before = deciding_settings(Config.fromfile(run / DEMO.name))
    for path in (DEMO, run):
        again, _, _ = training_config(path, StartOptions(), run, 'auto')
        assert changed_settings(before, deciding_settings(again)) == {}
        other, _, _ = training_config(path, StartOptions(fold=2), run, 'auto')
        changes = changed_settings(before, deciding_settings(other))
        assert {'train_dataloader.dataset.ann_file', 'data.train'} <= set(changes)
