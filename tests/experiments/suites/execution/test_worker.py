import json
import signal
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace

import pytest

from mmkdml.experiments import read_suite
from mmkdml.experiments.database import UnavailableError
from mmkdml.experiments.suites.execution import run_queue, worker
from mmkdml.experiments.suites.execution.attempt import LOG, SPEC
from mmkdml.experiments.suites.execution.processes import this_host
from mmkdml.experiments.suites.execution.worker import ConsecutiveFailuresError
from mmkdml.experiments.suites.serialization import deserialize_result
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.summaries import summarize_result
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


@pytest.mark.parametrize('is_job', [True, False])
def test_run_that_a_scheduler_stops_before_its_worker_is_released(make_suite, make_worker, is_job):
    class Stop(threading.Event):
        def wait(self, timeout=None):
            if timeout == worker.SIGNAL_SECONDS and is_job:
                self.set()  # the signal of the worker itself
            return super().wait(min(timeout, 0.1))

    suite, store = make_suite({'run': (None, {'killed': signal.SIGTERM})})
    make_worker(suite, store, Stop()).work()
    assert states(store) == {'run/seed_0': WAITING if is_job else FAILED}


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


@pytest.fixture
def start(make_worker, wait_for, monkeypatch):
    """Start a worker in a thread, and wait until it executes its first run."""
    monkeypatch.setattr(worker, 'HEARTBEAT_SECONDS', 0.05)

    def start(suite, store):
        one, errors = make_worker(suite, store), []
        store.database.stop = one.stop

        def work():
            try:
                one.work()
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        wait_for(lambda: executions(suite, suite.runs[0].key))
        return one, thread, errors

    return start


def test_run_continues_and_is_recorded_after_an_outage(make_suite, start, outage, wait_for):
    suite, store = make_suite({'run': (None, {'hang': True})})
    faults = outage(store)
    _, thread, errors = start(suite, store)
    faults.is_on = True
    wait_for(lambda: faults.lines)
    (suite.work_dir / 'run/seed_0/go').touch()
    wait_for((suite.work_dir / 'run/seed_0/result.json.gz').exists)
    assert thread.is_alive()
    faults.is_on = False
    thread.join(300)
    assert errors == []
    assert states(store) == {'run/seed_0': DONE}
    assert len(executions(suite, 'run/seed_0')) == 1
    assert 'unavailable' in faults.lines[0]
    assert 'back' in faults.lines[1]


def test_worker_that_gives_up_interrupts_its_run_gently(make_suite, start, outage):
    suite, store = make_suite({'run': (None, {'hang': True, 'save': True})})
    faults = outage(store, seconds=0.1)
    one, thread, errors = start(suite, store)
    faults.is_on = True
    thread.join(300)
    assert [type(error) for error in errors] == [UnavailableError]
    assert (suite.work_dir / 'run/seed_0/interrupted.pth').exists()
    faults.is_on = False
    assert store.states()[0].worker == one.name  # until another worker finds that it is lost


def test_stopped_worker_does_not_wait_for_the_database(make_suite, start, outage, wait_for):
    suite, store = make_suite({'run': (None, {'hang': True, 'save': True})})
    faults = outage(store)
    one, thread, errors = start(suite, store)
    faults.is_on = True
    wait_for(lambda: faults.lines)
    one.stop.set()
    thread.join(300)
    assert errors == []
    assert (suite.work_dir / 'run/seed_0/interrupted.pth').exists()
    assert 'run/seed_0 stopped' in one.lines[-1]


def test_stopped_worker_does_not_wait_for_a_heartbeat(make_suite, start, monkeypatch):
    suite, store = make_suite({'run': (None, {'hang': True, 'save': True})})
    hangs, end = threading.Event(), threading.Event()
    monkeypatch.setattr(store, 'record_heartbeat', lambda *_: (hangs.set(), end.wait(300)))
    one, thread, errors = start(suite, store)
    assert hangs.wait(300)
    one.stop.set()
    thread.join(300)
    end.set()
    assert errors == []
    assert states(store) == {'run/seed_0': WAITING}


@pytest.mark.parametrize('change', [None, 'worker', 'options', 'result'])
def test_only_an_intact_result_of_the_lost_attempt_is_recorded(
    make_suite, make_worker, start, outage, monkeypatch, change
):
    suite, store = make_suite({'run': (None, {'hang': True})})
    faults = outage(store, seconds=0.1)
    finish = store.finish

    def finish_while_away(*args):
        faults.is_on = True
        return finish(*args)

    monkeypatch.setattr(store, 'finish', finish_while_away)
    _, thread, errors = start(suite, store)
    folder = suite.work_dir / 'run/seed_0'
    (folder / 'go').touch()
    thread.join(300)
    assert [type(error) for error in errors] == [UnavailableError]
    faults.is_on = False
    monkeypatch.setattr(store, 'finish', finish)
    if change == 'result':
        (folder / 'result.json.gz').write_bytes(b'half')
    elif change is not None:
        content = json.loads((folder / SPEC).read_text())
        (folder / SPEC).write_text(json.dumps(content | {change: 'another'}))
    monkeypatch.setattr(run_queue, 'is_dead', lambda _: True)
    two = make_worker(suite, store)
    two.work()
    assert states(store) == {'run/seed_0': DONE}
    assert len(executions(suite, 'run/seed_0')) == (1 if change is None else 2)
    assert json.loads((folder / SPEC).read_text())['worker'] == two.name
    if change is None:
        assert store.states()[0].seconds == 1.0  # as the result says


def test_too_large_result_is_kept_and_recorded_by_resume(make_suite, make_worker, monkeypatch):
    suite, store = make_suite({'run': PLAIN})
    with monkeypatch.context() as patch:
        patch.setattr(store, 'size_error', lambda *_: 'larger than max_allowed_packet')
        for _ in range(2):
            make_worker(suite, store).work()
            assert store.states()[0].error == 'larger than max_allowed_packet'
            assert store.retry_failed(suite.runs) == 1
    make_worker(suite, store).work()
    assert states(store) == {'run/seed_0': DONE}
    assert len(executions(suite, 'run/seed_0')) == 1


def test_run_stops_if_its_folder_belongs_to_another_worker(make_suite, start, outage, wait_for):
    """The other one can reach the database, this one cannot."""
    suite, store = make_suite({'run': (None, {'hang': True, 'save': True})})
    faults = outage(store)
    one, thread, _ = start(suite, store)
    faults.is_on = True
    path = suite.work_dir / 'run/seed_0' / SPEC
    path.write_text(json.dumps(json.loads(path.read_text()) | {'worker': 'elsewhere#1.1'}))
    process = int(executions(suite, 'run/seed_0')[0].split()[0])
    wait_for(lambda: not is_alive(process))
    assert not (path.parent / 'interrupted.pth').exists()  # it may not write any more
    faults.is_on = False
    wait_for(lambda: 'run/seed_0 was claimed by another worker' in one.lines)
    one.stop.set()
    thread.join(300)


def test_claim_without_confirmation_is_executed(make_suite, make_worker):
    suite, store = make_suite({'run': PLAIN})
    one = make_worker(suite, store)
    assert store.claim(store.states()[0], one.name, 0.0)
    one.work()
    assert states(store) == {'run/seed_0': DONE}


def test_failures_in_a_row_stop_the_worker_and_release_its_runs(make_suite, make_worker):
    bad = (None, {'fail': True})
    suite, store = make_suite({'a': bad, 'student': ('a', {}), 'b': bad, 'c': bad, 'd': bad})
    with pytest.raises(ConsecutiveFailuresError, match=r'a/seed_0, b/seed_0, c/.*upside down'):
        make_worker(suite, store).work()
    assert set(states(store).values()) == {WAITING}
    assert executions(suite, 'd/seed_0') == []
    assert 'upside down' in store.states()[0].error  # listed by `status`
    for run in 'abcd':
        (suite.work_dir / run / 'seed_0').mkdir(parents=True, exist_ok=True)
        (suite.work_dir / run / 'seed_0' / 'fixed').touch()
    make_worker(suite, store).work()  # on an intact machine
    assert set(states(store).values()) == {DONE}


def test_failures_between_successes_do_not_stop_the_worker(make_suite, make_worker):
    bad = (None, {'fail': True})
    suite, store = make_suite({'a': bad, 'b': bad, 'good': PLAIN, 'c': bad, 'd': bad})
    make_worker(suite, store).work()
    assert [*states(store).values()] == [FAILED, FAILED, DONE, FAILED, FAILED]


def test_any_number_of_failures_is_allowed(make_suite, make_worker):
    suite, store = make_suite({name: (None, {'fail': True}) for name in 'abcd'})
    one = make_worker(suite, store)
    one.max_failures = 0
    one.work()
    assert set(states(store).values()) == {FAILED}


def test_names_of_workers_differ(make_suite, make_worker):
    suite, store = make_suite({'run': PLAIN})
    names = {make_worker(suite, store).name for _ in range(3)}
    assert len(names) == 3
    assert all(len(name) <= 200 for name in names)


def test_summary_is_stored_with_the_result(make_suite, make_worker):
    suite, store = make_suite(dict(a=PLAIN))
    make_worker(suite, store).work()
    assert states(store) == {'a/seed_0': DONE}
    expected = summarize_result(*deserialize_result(store.result('a', 0)))
    assert len(expected) > 3
    for part, content in expected.items():
        assert store.summaries(part) == {('a', 0): content}
    # The suite is read without the result.
    assert read_suite(suite, store).runs[0].measured['last'].summary.task == 'segmentation'


def test_worker_reads_only_rows_that_it_needs(make_suite, make_worker, monkeypatch):
    runs = {'teacher': PLAIN, 'bad': (None, {'fail': True}), 'student': ('teacher', {})}
    suite, store = make_suite(runs)
    one = make_worker(suite, store)
    with monkeypatch.context() as patch:
        for name in ('states', 'settings'):
            patch.setattr(SuiteStore, name, lambda *_, **__: pytest.fail('all rows were read'))
        one.work()
    assert [*states(store).values()] == [DONE, FAILED, DONE]
    content = json.loads((suite.work_dir / 'student/seed_0' / SPEC).read_text())
    assert content['registered'] == '{"model": {}}'
