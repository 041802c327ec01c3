import os
import signal
import threading

import pytest

from mmkdml.datasets.splits import SplitRow, fold_rows, write_folds, write_splits
from mmkdml.experiments import RunSpec, Suite, SuiteStore, run_suite
from mmkdml.experiments.suites.execution import run, worker
from mmkdml.experiments.suites.execution.run import run_workers
from mmkdml.experiments.suites.fold_runs import fold_runs
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING


def states(store):
    return [one.state for one in store.states()]


def test_failed_runs_are_repeated_only_with_retry(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(run, 'run_workers', lambda *_, **__: seen.extend(states(store)))
    (tmp_path / 'c.py').write_text('model = dict()\n')
    specs = (RunSpec('a', 0, str(tmp_path / 'c.py')),)
    suite = Suite('s', 's.py', 'T', ('IoU',), (), specs, tmp_path)
    store = SuiteStore.in_folder(tmp_path)
    run_suite(suite, store)
    store.mark_blocked(store.states()[0], 'broken')
    run_suite(suite, store)
    run_suite(suite, store, retry=True)
    assert seen == [WAITING, FAILED, WAITING]


def test_options_without_effect_raise_before_the_first_run(tmp_path):
    config = tmp_path / 'c.py'
    config.write_text('train_cfg = dict(by_epoch=True, max_epochs=1)\n')
    good = RunSpec('good', 0, str(config), {'train_cfg.max_epochs': 2})
    bad = RunSpec('bad', 0, str(config), {'train_cfg.max_epoch': 2})
    suite = Suite('s', 's.py', 'Title', ('IoU',), ('Table 4',), (good, bad), tmp_path)
    store = SuiteStore.in_folder(tmp_path)
    with pytest.raises(ValueError, match=r'train_cfg\.max_epoch: .*max_epochs'):
        run_suite(suite, store)
    assert store.states() == []


def test_workers_execute_all_runs(make_suite, script, monkeypatch):
    monkeypatch.setattr(worker, 'COMMAND', (script,))
    suite, store = make_suite({name: (None, {}) for name in 'abc'})
    lines = []
    run_workers(suite, store, workers=2, log=lines.append)
    assert states(store) == [DONE] * 3
    assert sorted(line.split()[0] for line in lines) == [f'{name}/seed_0' for name in 'abc']
    assert '3 of 3 runs' in lines[-1]


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_all_workers(make_suite, script, monkeypatch, wait_for, number):
    monkeypatch.setattr(worker, 'COMMAND', (script,))
    suite, store = make_suite({name: (None, {'hang': True}) for name in 'ab'})

    def interrupt():
        try:
            wait_for(lambda: states(store) == [RUNNING] * 2)
            wait_for(lambda: len(list(suite.work_dir.glob('*/*/executed'))) == 2)
        finally:  # otherwise the workers never end
            os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_workers(suite, store, workers=2)
    assert states(store) == [WAITING] * 2


def test_corrupt_database_raises(make_suite):
    suite, store = make_suite({'run': (None, {})})
    (suite.work_dir / 'suite.db').write_bytes(b'broken' * 1000)
    with pytest.raises(ValueError, match=r'suite\.db'):
        run_workers(suite, store)


def test_workers_divide_cores_and_gpus(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 7)
    monkeypatch.setattr(run.torch.cuda, 'device_count', lambda: 2)
    assert run._environment(0, workers=1, processes=1) == {}
    assert run._environment(2, 3, 1) == {'OMP_NUM_THREADS': '2', 'CUDA_VISIBLE_DEVICES': '0'}
    assert run._environment(1, 3, 2) == {'OMP_NUM_THREADS': '2'}
    monkeypatch.setenv('OMP_NUM_THREADS', '5')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
    assert run._environment(2, 3, 1) == {}


def test_data_without_the_folds_of_the_suite_raise_before_the_first_run(tmp_path):
    rows = [SplitRow(name, f'{name}.png', name, 0) for name in 'abcdef']
    write_folds(tmp_path / 'splits', fold_rows(rows, 3, (1, 0, 0)), {})
    path = str(tmp_path / 'splits' / 'train.csv')
    config = tmp_path / 'c.py'
    config.write_text(f'train_dataloader = dict(dataset=dict(ann_file={path!r}))\n')
    runs = tuple(fold_runs([RunSpec('a', 0, str(config))], 2, ()))
    suite = Suite('s', 's.py', 'Title', ('IoU',), (), runs, tmp_path, 2)
    store = SuiteStore.in_folder(tmp_path)
    with pytest.raises(ValueError, match='folds: expected 2, as in the suite, got 3'):
        run_suite(suite, store)
    write_splits(tmp_path / 'splits', dict(train=rows), {}, force=True)
    with pytest.raises(ValueError, match='expected folds, got a single split'):
        run_suite(suite, store)
    assert store.states() == []


def test_missing_data_raise_before_the_first_run(tmp_path, monkeypatch):
    config = tmp_path / 'c.py'
    data = dict(
        type='LGGDataset', data_root=str(tmp_path / 'x'), ann_file=str(tmp_path / 'train.csv')
    )
    config.write_text(f'train_dataloader = dict(dataset={data!r})\n')
    runs = tuple(RunSpec('a', seed, str(config)) for seed in (0, 1))
    suite = Suite('s', 's.py', 'Title', ('IoU',), (), runs, tmp_path)
    store = SuiteStore.in_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r'(?s)/x, .*/train\.csv\n.*2 runs: a\n.*lgg'):
        run_suite(suite, store)
    assert store.states() == []
    (tmp_path / 'x').mkdir()
    write_splits(tmp_path, dict(train=[SplitRow('a', 'a.png', 'a', 0, 'a.png')]), {})
    with pytest.raises(FileNotFoundError, match=r'/x/a\.png\n'):
        run_suite(suite, store)
    (tmp_path / 'x' / 'a.png').touch()
    monkeypatch.setattr(run, 'run_workers', lambda *_, **__: None)
    run_suite(suite, store)
    assert states(store) == [WAITING] * 2


def test_failures_in_a_row_stop_a_worker(make_suite, script, monkeypatch):
    monkeypatch.setattr(worker, 'COMMAND', (script,))
    suite, store = make_suite({name: (None, {'fail': True}) for name in 'abc'})
    with pytest.raises(ValueError, match=r'2 runs in a row failed .*a/seed_0, b/seed_0'):
        run_workers(suite, store, log=lambda _: None, max_failures=2)
    assert states(store) == [WAITING] * 3


def test_worker_that_stops_after_failures_does_not_stop_the_others(make_suite, script, monkeypatch):
    monkeypatch.setattr(worker, 'COMMAND', (script,))
    suite, store = make_suite({name: (None, {}) for name in 'ab'})
    work, stopped = worker.Worker.work, []

    def work_or_stop(self):
        if not stopped:
            stopped.append(self)
            raise worker.ConsecutiveFailuresError('no GPU')
        work(self)

    monkeypatch.setattr(worker.Worker, 'work', work_or_stop)
    with pytest.raises(ValueError, match='no GPU'):
        run_workers(suite, store, workers=2, log=lambda _: None)
    assert states(store) == [DONE] * 2


def test_signal_during_an_outage_ends_as_usual(make_suite, script, monkeypatch, outage, wait_for):
    monkeypatch.setattr(worker, 'COMMAND', (script,))
    suite, store = make_suite({'run': (None, {})})
    faults, lines = outage(store), []
    finish = store.finish

    def finish_while_away(*args):
        faults.is_on = True
        return finish(*args)

    monkeypatch.setattr(store, 'finish', finish_while_away)

    def interrupt():
        try:
            wait_for(lambda: any('unavailable' in line for line in lines))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_workers(suite, store, log=lines.append)
    assert any('not recorded yet' in line for line in lines)
