import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from types import SimpleNamespace

import pytest

from mmkdml.experiments import read_suite
from mmkdml.experiments.suites import worker
from mmkdml.experiments.suites.processes import this_host
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.worker import LOG, work_together
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

PLAIN = (None, {})


def states(store):
    return {run.key: run.state for run in store.states()}


def executed(suite, key):
    """Its lines; none before there are any."""
    path = suite.work_dir / key / 'executed'
    return path.read_text().splitlines() if path.exists() else []


def wait_for(condition, seconds=300):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(0.01)


def alive(process):
    """Whether a process is there and no zombie."""
    try:
        with open(f'/proc/{process}/stat') as stat:
            return stat.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_all_runs_are_made_once_and_teachers_first(make_suite, make_worker):
    suite, store = make_suite({'student': ('teacher', {}), 'teacher': PLAIN}, seeds=(0, 1))
    one = make_worker(suite, store)
    one.work()
    assert set(states(store).values()) == {DONE}
    started = [line.split()[0] for line in one.said if line.endswith('started')]
    assert started.index('teacher/seed_0') < started.index('student/seed_0')
    assert len(started) == 4
    (trace,) = executed(suite, 'student/seed_1')
    assert trace.split()[1] == str(suite.work_dir / 'teacher' / 'seed_1')
    assert '4 of 4 done' in one.said[-1]
    record = read_suite(suite, store)
    assert record.runs[1].measured['best'].cases.fp.tolist() == [1]
    assert record.runs[0].curves.value.tolist() == [0.5]


def test_a_failure_is_recorded_and_stops_no_other(make_suite, make_worker):
    suite, store = make_suite({'bad': (None, {'fail': True}), 'pupil': ('bad', {}), 'good': PLAIN})
    one = make_worker(suite, store)
    one.work()
    assert states(store) == {'bad/seed_0': FAILED, 'pupil/seed_0': FAILED, 'good/seed_0': DONE}
    bad, pupil, _ = store.states()
    assert bad.error.splitlines()[-1] == 'RuntimeError: the images are upside down'
    assert 'working' in bad.error
    assert pupil.error == 'its teacher bad/seed_0 failed'
    assert any('bad/seed_0 failed: RuntimeError' in line for line in one.said)
    # Mended and tried again: the log is kept, and its old errors are not told again.
    (suite.work_dir / 'bad' / 'seed_0' / 'mended').touch()
    store.retry_failed()
    make_worker(suite, store).work()
    assert set(states(store).values()) == {DONE}
    assert len(executed(suite, 'good/seed_0')) == 1
    assert 'upside down' in (suite.work_dir / 'bad' / 'seed_0' / LOG).read_text()


def test_a_run_that_is_killed_fails_by_that(make_suite, make_worker):
    """Nothing in its log tells of it: the last line is one like all others."""
    signals = {'memory': signal.SIGKILL, 'hup': signal.SIGHUP}
    suite, store = make_suite({run: (None, {'killed': one}) for run, one in signals.items()})
    one = make_worker(suite, store)
    one.work()
    errors = [run.error.splitlines() for run in store.states()]
    assert errors == [
        ['working', 'it was ended by SIGKILL, as by a system that is out of memory'],
        ['working', 'it was ended by SIGHUP'],
    ]
    assert any('memory/seed_0 failed: it was ended by SIGKILL' in line for line in one.said)


def test_a_damaged_result_is_a_failure(make_suite, make_worker):
    suite, store = make_suite({'half': (None, {'empty': True})})
    make_worker(suite, store).work()
    assert 'result.json.gz: not a whole result of a run' in store.states()[0].error


def test_what_cannot_be_started_is_a_failure(make_suite, make_worker):
    suite, store = make_suite({'run': PLAIN})
    (suite.work_dir / 'run').write_text('in the way of the folder')
    make_worker(suite, store).work()
    assert 'it could not be started' in store.states()[0].error


def test_two_workers_share_the_runs(make_suite, make_worker):
    suite, store = make_suite({f'r{i}': PLAIN for i in range(6)})
    workers = [make_worker(suite, store), make_worker(suite, SuiteStore.in_folder(suite.work_dir))]
    threads = [threading.Thread(target=one.work) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(states(store).values()) == {DONE}
    assert all(len(executed(suite, run.key)) == 1 for run in suite.runs)
    assert len({run.worker for run in store.states()}) == 2


def test_a_worker_waits_for_a_teacher_that_another_one_makes(make_suite, make_worker):
    suite, store = make_suite({'teacher': PLAIN, 'pupil': ('teacher', {})})
    teacher = store.states()[0]
    store.take(teacher, 'elsewhere#1.1', 0.0)
    one = make_worker(suite, store)
    thread = threading.Thread(target=one.work)
    thread.start()
    wait_for(lambda: 'waiting for runs that others make' in one.said)
    assert store.finish(teacher, 'elsewhere#1.1', b'', 1.0)
    time.sleep(0.3)
    assert states(store)['pupil/seed_0'] == WAITING  # the teacher's files are not here
    (suite.work_dir / 'teacher' / 'seed_0').mkdir(parents=True)
    thread.join(300)
    assert states(store)['pupil/seed_0'] == DONE


def test_what_a_dead_worker_of_this_machine_left_is_taken_at_once(make_suite, make_worker):
    suite, store = make_suite({'run': PLAIN})
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    store.take(store.states()[0], f'{this_host()}#{dead.pid}.1', 0.0)
    make_worker(suite, store).work()
    assert states(store) == {'run/seed_0': DONE}


def test_another_machines_run_is_taken_after_a_long_silence(make_suite, make_worker, monkeypatch):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(worker, 'time', clock)
    suite, store = make_suite({'run': PLAIN})
    store.take(store.states()[0], 'elsewhere#1.1', 0.0)
    one = make_worker(suite, store)
    for _ in range(4):  # signs of life, over a longer time than it takes to be given up
        assert not one._is_lost(store.states()[0])
        now[0] += 0.9 * worker.LOST_SECONDS
        assert store.beat(store.states()[0], 'elsewhere#1.1')
    assert not one._is_lost(store.states()[0])
    now[0] += 0.9 * worker.LOST_SECONDS
    assert not one._is_lost(store.states()[0])
    now[0] += 0.2 * worker.LOST_SECONDS
    one.work()
    assert states(store) == {'run/seed_0': DONE}


def test_a_run_that_was_taken_over_is_let_go(make_suite, make_worker, monkeypatch):
    monkeypatch.setattr(worker, 'BEAT_SECONDS', 0.05)
    suite, store = make_suite({'run': (None, {'hang': True})})
    one = make_worker(suite, store)
    thread = threading.Thread(target=one.work, daemon=True)
    thread.start()
    wait_for(lambda: executed(suite, 'run/seed_0'))
    while not store.take(store.states()[0], 'elsewhere#1.1', 0.0):
        pass
    wait_for(lambda: 'run/seed_0 was taken over by another worker' in one.said)
    process = int(executed(suite, 'run/seed_0')[0].split()[0])
    wait_for(lambda: not alive(process))
    assert store.states()[0].worker == 'elsewhere#1.1'
    one.stop.set()
    thread.join(300)


def test_a_stopped_worker_ends_its_run_and_gives_it_back(make_suite, make_worker):
    suite, store = make_suite({'run': (None, {'hang': True})})
    one = make_worker(suite, store)
    thread = threading.Thread(target=one.work)
    thread.start()
    wait_for(lambda: executed(suite, 'run/seed_0'))
    one.stop.set()
    thread.join(300)
    assert states(store) == {'run/seed_0': WAITING}
    assert one.said[-1] == 'run/seed_0 stopped; it can be resumed'
    assert not alive(int(executed(suite, 'run/seed_0')[0].split()[0]))


def test_a_stopped_run_may_save_where_it_is(make_suite, make_worker, tmp_path):
    saving = """
        import os, signal, sys, threading, time
        from pathlib import Path

        def end_with_the_worker():
            sys.stdin.buffer.raw.read()
            os._exit(1)

        def save(*_):
            time.sleep(0.3)
            folder.joinpath('saved').touch()
            os._exit(143)

        folder = Path(sys.argv[1]).parent
        threading.Thread(target=end_with_the_worker, daemon=True).start()
        signal.signal(signal.SIGTERM, save)
        folder.joinpath('ready').touch()
        time.sleep(60)
    """
    script = tmp_path / 'saving.py'
    script.write_text(textwrap.dedent(saving))
    suite, store = make_suite({'run': PLAIN})
    one = make_worker(suite, store)
    one.command = (str(script),)
    thread = threading.Thread(target=one.work)
    thread.start()
    folder = suite.work_dir / 'run' / 'seed_0'
    wait_for((folder / 'ready').exists)
    one.stop.set()
    thread.join(300)
    assert (folder / 'saved').exists()
    assert states(store) == {'run/seed_0': WAITING}


@pytest.mark.parametrize('kill', [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_all_workers(make_suite, script, monkeypatch, kill):
    monkeypatch.setattr(worker, 'COMMAND', (script,))
    suite, store = make_suite({name: (None, {'hang': True}) for name in 'ab'})
    said = []

    def interrupt():
        try:
            wait_for(lambda: list(states(store).values()) == [RUNNING] * 2)
            wait_for(lambda: len(list(suite.work_dir.glob('*/*/executed'))) == 2)
        finally:  # else the workers would wait for ever
            os.kill(os.getpid(), kill)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        work_together(suite, store, workers=2, say=said.append)
    assert set(states(store).values()) == {WAITING}


def test_a_lost_database_ends_the_work(make_suite, monkeypatch):
    suite, store = make_suite({'run': PLAIN})
    (suite.work_dir / 'suite.db').write_bytes(b'broken' * 1000)
    with pytest.raises(ValueError, match='cannot be used'):
        work_together(suite, store)


def test_a_failure_is_told_even_if_the_database_takes_nothing(make_suite, make_worker, monkeypatch):
    suite, store = make_suite({'bad': (None, {'fail': True})})

    def full(*_):
        raise ValueError('database or disk is full')

    monkeypatch.setattr(store, 'fail', full)
    one = make_worker(suite, store)
    with pytest.raises(ValueError, match='disk is full'):
        one.work()
    assert 'bad/seed_0 failed: RuntimeError: the images are upside down' in one.said[-1]


def test_several_workers_divide_cores_and_gpus(monkeypatch):
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: 7)
    monkeypatch.setattr(worker.torch.cuda, 'device_count', lambda: 2)
    assert worker._share(0, workers=1, processes=1) == {}
    assert worker._share(2, 3, 1) == {'OMP_NUM_THREADS': '2', 'CUDA_VISIBLE_DEVICES': '0'}
    assert worker._share(1, 3, 2) == {'OMP_NUM_THREADS': '2'}
    monkeypatch.setenv('OMP_NUM_THREADS', '5')
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3')
    assert worker._share(2, 3, 1) == {}


@pytest.mark.slow
def test_a_run_ends_with_its_worker(tmp_path):
    """Even a worker that is killed leaves nobody behind who goes on writing to the run's folder."""
    child = textwrap.dedent("""
        import time
        from mmkdml.experiments.suites.execute import _end_with_the_worker
        _end_with_the_worker()
        print('ready', flush=True)
        time.sleep(100)
    """)
    parent = textwrap.dedent(f"""
        import subprocess, sys, time
        child = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, text=True, start_new_session=True)
        child.stdout.readline()
        print(child.pid, flush=True)
        time.sleep(100)
    """)
    worker_process = subprocess.Popen(
        [sys.executable, '-c', parent], stdout=subprocess.PIPE, text=True
    )
    run = int(worker_process.stdout.readline())
    assert alive(run)
    worker_process.kill()
    worker_process.wait()
    wait_for(lambda: not alive(run))
