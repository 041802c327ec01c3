"""Suites on a local Ray, whose runs execute a script instead of a training."""

import os
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import replace

import pytest

from mmkdml.experiments import run_on_ray
from mmkdml.experiments.suites.execution import ray_engine, worker
from mmkdml.statistics.records import DONE, FAILED, RUNNING, WAITING

PLAIN = (None, {})


@pytest.fixture(scope='module')
def local_ray(script):
    """Start Ray with two cores; its processes execute the script."""
    ray = pytest.importorskip('ray')

    def use_script():
        worker.COMMAND = (script,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('RAY_USAGE_STATS_ENABLED', '0')
        ray.init(
            num_cpus=2,
            num_gpus=0,
            include_dashboard=False,
            runtime_env=dict(worker_process_setup_hook=use_script),
        )
        yield ray
        ray.shutdown()


@pytest.fixture
def run(local_ray, monkeypatch):
    """Run a suite whose runs are registered already."""
    monkeypatch.setattr(ray_engine, 'register_suite', lambda *_: None)
    return run_on_ray


def states(store):
    return {run.key: run.state for run in store.states()}


def test_runs_start_after_their_teachers(make_suite, run):
    runs = {'student': ('teacher', {}), 'teacher': PLAIN, 'other': PLAIN}
    suite, store = make_suite(runs, seeds=(0, 1))
    teachers_first = sorted(suite.runs, key=lambda one: one.teacher is not None)
    run(replace(suite, runs=tuple(teachers_first)), store)
    assert set(states(store).values()) == {DONE}
    for seed in (0, 1):
        (execution,) = (suite.work_dir / f'student/seed_{seed}/executed').read_text().splitlines()
        assert execution.split()[1] == str(suite.work_dir / f'teacher/seed_{seed}')
    # A second call has nothing to do.
    run(suite, store)
    assert len((suite.work_dir / 'other/seed_0/executed').read_text().splitlines()) == 1


def test_failed_teacher_blocks_its_student_only(make_suite, run):
    runs = {'bad': (None, {'fail': True}), 'student': ('bad', {}), 'good': PLAIN}
    suite, store = make_suite(runs)
    run(suite, store)
    assert states(store) == {'bad/seed_0': FAILED, 'student/seed_0': FAILED, 'good/seed_0': DONE}
    assert 'bad/seed_0' in next(one.error for one in store.states() if one.name == 'student')


def test_run_of_a_lost_process_is_executed_again(make_suite, run, wait_for):
    suite, store = make_suite({'lost': (None, {'hang': True})})
    executed = suite.work_dir / 'lost/seed_0/executed'

    def kill():
        wait_for(lambda: executed.exists() and executed.read_text())
        name = store.states()[0].worker
        os.kill(int(name.rpartition('#')[2].partition('.')[0]), signal.SIGKILL)
        with suppress(ProcessLookupError):  # before its result; Ray may have killed it
            os.kill(int(executed.read_text().split()[0]), signal.SIGKILL)
        executed.with_name('go').touch()

    thread = threading.Thread(target=kill)
    thread.start()
    run(suite, store)
    thread.join()
    assert states(store) == {'lost/seed_0': DONE}
    assert len(executed.read_text().splitlines()) == 2


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_and_release_all_runs(make_suite, run, wait_for, number):
    suite, store = make_suite({name: (None, {'hang': True}) for name in 'abc'})

    def interrupt():
        try:
            wait_for(lambda: list(states(store).values()).count(RUNNING) == 2)
            wait_for(lambda: len(list(suite.work_dir.glob('*/*/executed'))) == 2)
        finally:
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(suite, store)
    thread.join()
    assert list(states(store).values()) == [WAITING] * 3


@pytest.fixture
def no_ray(make_suite, monkeypatch):
    """A suite whose runs must not be executed."""
    ray = pytest.importorskip('ray')
    monkeypatch.setattr(ray_engine, 'register_suite', lambda *_: None)
    monkeypatch.setattr(ray, 'is_initialized', lambda: False)
    monkeypatch.setattr(ray, 'init', lambda **_: pytest.fail('Ray was started'))
    return make_suite({'a': PLAIN})


@pytest.mark.parametrize('scheme', ['', 'ray://'])
def test_cluster_that_cannot_be_reached_raises_at_once(no_ray, monkeypatch, scheme):
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = f'{scheme}127.0.0.1:{server.getsockname()[1]}'
    with pytest.raises(ConnectionError, match=address):
        run_on_ray(*no_ray, address)
    monkeypatch.setenv('RAY_ADDRESS', address)
    with pytest.raises(ConnectionError, match=address):
        run_on_ray(*no_ray)


@pytest.mark.parametrize(
    ('file', 'variables', 'mode'),
    [
        (False, {}, None),
        (True, {}, 'token'),
        (False, dict(RAY_AUTH_TOKEN='secret'), 'token'),
        (False, dict(RAY_AUTH_TOKEN_PATH='/token'), 'token'),
        (True, dict(RAY_AUTH_MODE='disabled'), 'disabled'),
    ],
)
def test_token_of_this_machine_is_used(no_ray, monkeypatch, tmp_path, file, variables, mode):
    for name in ('RAY_AUTH_MODE', 'RAY_AUTH_TOKEN', 'RAY_AUTH_TOKEN_PATH'):
        monkeypatch.setenv(name, '')  # restored afterwards
        monkeypatch.delenv(name)
    for name, value in {'HOME': str(tmp_path / 'home'), **variables}.items():
        monkeypatch.setenv(name, value)
    (tmp_path / 'home' / '.ray').mkdir(parents=True)
    if file:
        (tmp_path / 'home' / '.ray' / 'auth_token').write_text('secret')
    suite, store = no_ray
    store.mark_blocked(store.states()[0], 'failed')
    run_on_ray(suite, store)
    assert os.environ.get('RAY_AUTH_MODE') == mode


def test_finished_suite_starts_no_cluster(no_ray):
    suite, store = no_ray
    store.mark_blocked(store.states()[0], 'failed')
    run_on_ray(suite, store)


def test_runs_for_which_no_machine_is_large_enough_are_refused(make_suite, run):
    suite, store = make_suite({'a': PLAIN})
    for options, message in (
        (dict(gpus=1), r'2 cores and 0 GPUs\), got 1 cores and 1 GPUs.*--wait-for-nodes'),
        (dict(processes=3), r'got 3 cores and 0 GPUs'),
        (dict(cpus=2.5), r'got 2\.5 cores'),
    ):
        with pytest.raises(ValueError, match=message):
            run(suite, store, **options)
    assert states(store) == {'a/seed_0': WAITING}
    run(suite, store, cpus=2)
    assert states(store) == {'a/seed_0': DONE}


def test_runs_wait_for_a_larger_machine_on_request(make_suite, run, monkeypatch):
    suite, store = make_suite({'a': PLAIN, 'b': PLAIN})
    lines = []

    def note(self, line):
        lines.append(line)
        raise KeyboardInterrupt  # instead of a machine

    monkeypatch.setattr(ray_engine.SuiteDisplay, 'note', note)
    with pytest.raises(KeyboardInterrupt):
        run(suite, store, gpus=1, wait_for_nodes=True)
    (line,) = lines
    assert 'got 1 cores and 1 GPUs' in line
    assert 'Waiting' in line


def node(cpus, gpus=None, is_alive=True):
    resources = dict(CPU=cpus, memory=1e9, **({} if gpus is None else dict(GPU=gpus)))
    return dict(Alive=is_alive, Resources=resources)


def test_one_machine_needs_all_resources_of_a_run():
    nodes = [node(16.0), node(4.0, 2.0), node(4.0, 2.0), node(64.0, 8.0, is_alive=False)]
    for cpus, gpus in ((16, 0), (4, 2), (0.5, 0.5), (0, 0)):
        assert ray_engine._lacking_resources(nodes, dict(CPU=cpus, GPU=gpus)) is None
    for cpus, gpus in ((17, 0), (5, 1), (1, 4)):
        error = ray_engine._lacking_resources(nodes, dict(CPU=cpus, GPU=gpus))
        assert '(16 cores and 0 GPUs; 4 cores and 2 GPUs)' in error
        assert f'got {cpus} cores and {gpus} GPUs' in error


def test_errors_of_tasks_are_raised(make_suite, run, monkeypatch):
    suite, store = make_suite({'a': PLAIN})
    monkeypatch.setattr(
        type(store.engine.url), 'render_as_string', lambda *_, **__: 'sqlite:////missing/suite.db'
    )
    with pytest.raises(ValueError, match='/missing/suite.db'):
        run(suite, store)
