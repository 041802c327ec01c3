import pytest
from mmengine.config import Config

from mmkdml.datasets import needed_files
from mmkdml.experiments.run_spec import RunSpec
from mmkdml.experiments.suites.execution.missing_data import DataCheck
from mmkdml.experiments.suites.store import SuiteStore

RUNS = [RunSpec(name, seed, 'c') for seed in (0, 1) for name in 'abcde']


@pytest.fixture
def store(tmp_path):
    return SuiteStore.in_folder(tmp_path)


def config(folder, kind='LGGDataset'):
    loaders = {
        f'{part}_dataloader': dict(
            dataset=dict(type=kind, data_root=folder, ann_file=f'{folder}/splits/{part}.csv')
        )
        for part in ('train', 'val', 'test')
    }
    return Config(loaders)


def check(store, configs, runs=RUNS, retry=False):
    data = DataCheck(runs, store, retry, None)
    for name, one in configs.items():
        data.add(name, one)
    data.check()


def test_missing_data_are_listed_with_runs_and_commands(store):
    configs = {
        'a': config('x'),
        'b': config('y', 'PCamDataset'),
        **dict.fromkeys('cde', config('x')),
    }
    with pytest.raises(FileNotFoundError) as raised:
        check(store, configs)
    first, second, *_ = str(raised.value).partition('\n')[2].split('\n  x')[-1].split('\n  y')
    assert 'x/splits/train.csv, x/splits/val.csv, x/splits/test.csv' in f'x{first}'
    assert 'for 8 runs: a, c, d, ... (1 more)' in first
    assert 'lgg' in first
    assert 'x --out x/splits' in first
    assert 'for 2 runs: b\n' in second
    assert 'pcam' in second


def test_files_of_all_folds_are_one_entry(store):
    runs = [RunSpec(f'a/fold_{fold}', 0, 'c', fold=fold) for fold in range(5)]
    data = DataCheck(runs, store, False, 5)
    for run in runs:
        one = config('x')
        for part in ('train', 'val', 'test'):
            file = f'x/splits/fold_{run.fold}/{part}.csv'
            one[f'{part}_dataloader'].dataset.ann_file = file
        data.add(run.name, one)
    with pytest.raises(FileNotFoundError) as raised:
        data.check()
    first, second, third = str(raised.value).splitlines()[1:-1]
    assert first.split(', ')[:2] == ['  x', 'x/splits/fold_0/train.csv']
    assert first.endswith('... (12 more)')  # of 5 folds with three files and their folder
    assert second.strip() == 'for 5 runs: a'
    assert third.endswith('x --out x/splits --folds 5')


def test_each_data_set_is_checked_once(store, monkeypatch):
    checked = []
    monkeypatch.setattr(
        needed_files.NeededFiles, 'missing', lambda self: checked.append(self.files[0]) or []
    )
    check(store, dict.fromkeys('abcde', config('x')))
    assert checked == [f'x/splits/{part}.csv' for part in ('train', 'val', 'test')]


def test_ended_runs_need_no_data(store):
    store.register(RUNS, dict.fromkeys('abcde', ''))
    for run in store.states():
        if run.name != 'e':
            store.claim(run, 'w', 0.0)
            run = next(one for one in store.states() if one.key == run.key)
            assert (
                store.fail(run, 'w', 'x') if run.name == 'd' else store.finish(run, 'w', b'', 1.0)
            )
    configs = {**dict.fromkeys('abc', config('x')), 'd': config('y'), 'e': Config({})}
    check(store, configs)
    with pytest.raises(FileNotFoundError, match='for 2 runs: d\n'):
        check(store, configs, retry=True)
    more = [*RUNS, RunSpec('a', 2, 'c')]
    with pytest.raises(FileNotFoundError, match='for 1 run: a\n'):
        check(store, configs, more)


def test_custom_data_sets_are_not_refused(store):
    check(store, {'a': config('x', 'MyDataset'), 'b': Config(dict(train_dataloader=None))})
