import signal
import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from mmkdml.experiments import read_suite
from mmkdml.experiments.suites import worker
from mmkdml.experiments.suites.processes import this_host
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.worker import LOG
from mmkdml.statistics.records import DONE, FAILED, WAITING

PLAIN = (None, {})


def states(store):
    return {run.key: run.state for run in store.states()}


def executions(suite, key):
    """Lines that the script has written, one per execution."""
    path = suite.work_dir / key / 'executed'
    return path.read_text().splitlines() if path.exists() else []


def is_alive(process):
    """Return whether a process exists and is not a zombie."""
    try:
        with open(f'/proc/{process}/stat') as stat:
            return stat.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False


class Steps(threading.Event):
    """Event that calls one of its functions, in order, each time a worker waits."""

    def __init__(self, *steps):
        super().__init__()
        self.steps = list(steps)

    def wait(self, timeout=None):
        return self.steps.pop(0)() if self.steps else super().wait(timeout)


def test_runs_are_executed_once_and_teachers_first(make_suite, make_worker):
    suite, store = make_suite({'student': ('teacher', {}), 'teacher': PLAIN}, seeds=(0, 1))
    one = make_worker(suite, store)
    one.work()
    assert set(states(store).values()) == {DONE}
    started = [line.split()[0] for line in one.lines]
    assert started.index('teacher/seed_0') < started.index('student/seed_0')
    assert len(started) == 4
    (execution,) = executions(suite, 'student/seed_1')
    assert execution.split()[1] == str(suite.work_dir / 'teacher' / 'seed_1')
    assert '4 of 4 runs' in one.lines[-1]
    record = read_suite(suite, store)
    assert record.runs[1].measured['best'].cases.fp.tolist() == [1]
    assert record.runs[0].curves.value.tolist() == [0.5]


def test_failure_is_recorded_and_other_runs_continue(make_suite, make_worker):
    suite, store = make_suite(
        {'bad': (None, {'fail': True}), 'student': ('bad', {}), 'good': PLAIN}
    )
    one = make_worker(suite, store)
    one.work()
    assert states(store) == {'bad/seed_0': FAILED, 'student/seed_0': FAILED, 'good/seed_0': DONE}
    bad, student, _ = store.states()
    assert bad.error.splitlines()[-1] == 'RuntimeError: the images are upside down'
    assert 'working' in bad.error
    assert 'bad/seed_0' in student.error
    assert any('bad/seed_0 failed: RuntimeError' in line for line in one.lines)
    assert any(line.startswith('student/seed_0 failed:') for line in one.lines)
    # After a fix and a retry the log is kept, but old errors are not reported again.
    (suite.work_dir / 'bad' / 'seed_0' / 'fixed').touch()
    store.retry_failed()
    make_worker(suite, store).work()
    assert set(states(store).values()) == {DONE}
    assert len(executions(suite, 'good/seed_0')) == 1
    assert 'upside down' in (suite.work_dir / 'bad' / 'seed_0' / LOG).read_text()


def test_signal_that_killed_a_run_is_recorded(make_suite, make_worker):
    """A killed run has no error in its log."""
    signals = {'memory': signal.SIGKILL, 'hup': signal.SIGHUP}
    suite, store = make_suite({run: (None, {'killed': one}) for run, one in signals.items()})
    one = make_worker(suite, store)
    one.work()
    errors = [run.error.splitlines() for run in store.states()]
    assert errors == [
        ['working', 'killed by SIGKILL (often out of memory)'],
        ['working', 'killed by SIGHUP'],
    ]
    assert any('memory/seed_0 failed: killed by SIGKILL' in line for line in one.lines)


def test_invalid_result_is_a_failure(make_suite, make_worker):
    suite, store = make_suite({'half': (None, {'empty': True})})
    make_worker(suite, store).work()
    assert states(store) == {'half/seed_0': FAILED}
    assert 'result.json.gz: invalid result' in store.states()[0].error


def test_run_that_cannot_start_is_a_failure(make_suite, make_worker):
    suite, store = make_suite({'run': PLAIN})
    (suite.work_dir / 'run').write_text('a file in place of the folder')
    make_worker(suite, store).work()
    assert states(store) == {'run/seed_0': FAILED}
    assert 'could not start' in store.states()[0].error


def test_two_workers_share_the_runs(make_suite, make_worker):
    suite, store = make_suite({f'r{i}': PLAIN for i in range(6)})
    workers = [make_worker(suite, store), make_worker(suite, SuiteStore.in_folder(suite.work_dir))]
    threads = [threading.Thread(target=one.work) for one in workers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(states(store).values()) == {DONE}
    assert all(len(executions(suite, run.key)) == 1 for run in suite.runs)
    assert len({run.worker for run in store.states()}) == 2


def test_worker_waits_for_teacher_and_its_files(make_suite, make_worker):
    suite, store = make_suite({'teacher': PLAIN, 'student': ('teacher', {})})
    teacher = store.states()[0]
    assert store.claim(teacher, 'elsewhere#1.1', 0.0)

    def finish_teacher():
        assert store.finish(teacher, 'elsewhere#1.1', b'', 1.0)

    def copy_files():
        # The worker has checked again since the teacher is done, and has not started the student.
        assert states(store) == {'teacher/seed_0': DONE, 'student/seed_0': WAITING}
        assert executions(suite, 'student/seed_0') == []
        (suite.work_dir / teacher.key).mkdir(parents=True)

    stop = Steps(finish_teacher, copy_files)
    one = make_worker(suite, store, stop)
    one.work()
    assert stop.steps == []
    assert states(store)['student/seed_0'] == DONE
    assert one.lines.count('waiting for runs claimed by other workers') == 1


def test_run_of_a_dead_worker_is_claimed_at_once(make_suite, make_worker):
    suite, store = make_suite({'run': PLAIN})
    dead = subprocess.Popen([sys.executable, '-c', ''])
    dead.wait()
    store.claim(store.states()[0], f'{this_host()}#{dead.pid}.1', 0.0)
    make_worker(suite, store).work()
    assert states(store) == {'run/seed_0': DONE}


def test_run_of_another_machine_is_claimed_after_the_grace_period(
    make_suite, make_worker, monkeypatch
):
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], time=time.time)
    monkeypatch.setattr(worker, 'time', clock)
    suite, store = make_suite({'run': PLAIN})
    store.claim(store.states()[0], 'elsewhere#1.1', 0.0)
    one = make_worker(suite, store)
    for _ in range(4):  # heartbeats over more than the grace period
        assert not one._is_lost(store.states()[0])
        now[0] += 0.9 * worker.GRACE_SECONDS
        assert store.record_heartbeat(store.states()[0], 'elsewhere#1.1')
    assert not one._is_lost(store.states()[0])
    now[0] += 0.9 * worker.GRACE_SECONDS
    assert not one._is_lost(store.states()[0])
    now[0] += 0.2 * worker.GRACE_SECONDS
    one.work()
    assert states(store) == {'run/seed_0': DONE}


def test_run_claimed_by_another_worker_is_killed(make_suite, make_worker, monkeypatch, wait_for):
    monkeypatch.setattr(worker, 'HEARTBEAT_SECONDS', 0.05)
    suite, store = make_suite({'run': (None, {'hang': True})})
    one = make_worker(suite, store)
    thread = threading.Thread(target=one.work, daemon=True)
    thread.start()
    wait_for(lambda: executions(suite, 'run/seed_0'))
    while not store.claim(store.states()[0], 'elsewhere#1.1', 0.0):
        pass
    wait_for(lambda: 'run/seed_0 was claimed by another worker' in one.lines)
    process = int(executions(suite, 'run/seed_0')[0].split()[0])
    assert not is_alive(process)
    assert store.states()[0].worker == 'elsewhere#1.1'
    one.stop.set()
    thread.join(300)


def test_stopped_worker_stops_and_releases_its_run(make_suite, make_worker, wait_for):
    suite, store = make_suite({'run': (None, {'hang': True})})
    one = make_worker(suite, store)
    thread = threading.Thread(target=one.work)
    thread.start()
    wait_for(lambda: executions(suite, 'run/seed_0'))
    one.stop.set()
    thread.join(300)
    assert states(store) == {'run/seed_0': WAITING}
    assert one.lines[-1] == 'run/seed_0 stopped; it can be resumed'
    assert not is_alive(int(executions(suite, 'run/seed_0')[0].split()[0]))


def test_stopped_run_has_time_to_save(make_suite, make_worker, tmp_path, monkeypatch, wait_for):
    """The run saves only after the worker has begun to wait, and exits if its stdin is closed."""
    saving = """
        import os, signal, sys, threading, time
        from pathlib import Path

        def exit_when_stdin_closes():
            sys.stdin.buffer.raw.read()
            os._exit(1)

        def save(*_):
            while not folder.joinpath('waiting').exists():
                time.sleep(0.01)
            folder.joinpath('saved').touch()
            os._exit(143)

        folder = Path(sys.argv[1]).parent
        threading.Thread(target=exit_when_stdin_closes, daemon=True).start()
        signal.signal(signal.SIGTERM, save)
        folder.joinpath('ready').touch()
        signal.pause()
    """
    script = tmp_path / 'saving.py'
    script.write_text(textwrap.dedent(saving))
    suite, store = make_suite({'run': PLAIN})
    one = make_worker(suite, store)
    one.command = (str(script),)
    folder = suite.work_dir / 'run' / 'seed_0'
    wait = subprocess.Popen.wait

    def wait_and_note(process, timeout=None):
        (folder / 'waiting').touch()
        return wait(process, timeout)

    monkeypatch.setattr(subprocess.Popen, 'wait', wait_and_note)
    thread = threading.Thread(target=one.work)
    thread.start()
    wait_for((folder / 'ready').exists)
    one.stop.set()
    thread.join(300)
    assert (folder / 'saved').exists()
    assert states(store) == {'run/seed_0': WAITING}


def test_failure_is_logged_even_if_the_database_is_full(make_suite, make_worker, monkeypatch):
    suite, store = make_suite({'bad': (None, {'fail': True})})

    def full(*_):
        raise ValueError('database or disk is full')

    monkeypatch.setattr(store, 'fail', full)
    one = make_worker(suite, store)
    with pytest.raises(ValueError, match='disk is full'):
        one.work()
    assert 'bad/seed_0 failed: RuntimeError: the images are upside down' in one.lines[-1]


def test_runs_wait_for_all_teachers_of_other_folds(make_suite, make_worker):
    suite, store = make_suite(dict.fromkeys(('a', 'b', 'kd'), PLAIN))
    student = replace(suite.runs[2], fold=1, fold_teachers=('a', None, 'b'))
    suite = replace(suite, runs=(student, *suite.runs[:2]))
    make_worker(suite, store).work()
    assert set(states(store).values()) == {DONE}
    (execution,) = executions(suite, 'kd/seed_0')
    folders = [str(suite.work_dir / name / 'seed_0') for name in 'ab']
    assert execution.partition(' ')[2] == str([folders[0], None, folders[1]])


def test_failed_teacher_of_another_fold_blocks_the_run(make_suite, make_worker):
    suite, store = make_suite({'a': PLAIN, 'b': (None, {'fail': True}), 'kd': PLAIN})
    student = replace(suite.runs[2], fold=0, fold_teachers=(None, 'a', 'b'))
    suite = replace(suite, runs=(*suite.runs[:2], student))
    make_worker(suite, store).work()
    assert states(store) == {'a/seed_0': DONE, 'b/seed_0': FAILED, 'kd/seed_0': FAILED}
    assert 'b/seed_0' in store.states()[2].error
