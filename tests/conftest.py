"""mmkdml comes first: importing it makes torchvision importable beside a CPU build of torch."""

import ctypes
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import threading
import uuid
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path

import pytest
import torch.distributed
from matplotlib.figure import Figure
from mmengine.registry import DefaultScope

import mmkdml  # noqa: F401
from mmkdml.datasets import convert_lgg, make_demo_data
from mmkdml.engine import keep_freed_memory

ROOT = Path(__file__).parents[1]

# As a run on a CPU does: a good part of a short step is fetching memory.
keep_freed_memory()

T, S1, S2, P, F = 'teacher', 'student_1', 'student_2', 'predictions', 'features'
BOTH_PREDICTIONS = [(T, S1, P, 'beta'), (T, S2, P, 'beta')]
BOTH_FEATURES = [(T, S1, F, 'beta'), (T, S2, F, 'beta')]
MIXED = [(T, S1, P, 'beta'), (T, S2, F, 'beta')]
# Table 5 of the paper: (source, learner, knowledge, letter of the weight) by mode and style.
PAPER_TRANSFERS = {
    ('ml', 'v1'): [(S2, S1, P, 'gamma'), (S1, S2, P, 'gamma')],
    ('ml', 'v2'): [(S2, S1, F, 'gamma'), (S1, S2, F, 'gamma')],
    ('ml', 'v3'): [(S2, S1, P, 'gamma'), (S1, S2, F, 'gamma')],
    **{
        (mode, style): rows
        for mode in ('kd_off', 'kd_on')
        for style, rows in dict(v1=BOTH_PREDICTIONS, v2=BOTH_FEATURES, v3=MIXED).items()
    },
    ('kdml', 'v1'): [
        (T, S1, P, 'beta'), (S2, S1, P, 'gamma'), (T, S2, P, 'beta'), (S1, S2, P, 'gamma'),
    ],
    ('kdml', 'v2'): [
        (T, S1, F, 'beta'), (S2, S1, F, 'gamma'), (T, S2, F, 'beta'), (S1, S2, F, 'gamma'),
    ],
    ('kdml', 'v3'): [
        (T, S1, F, 'beta'), (S2, S1, P, 'gamma'), (T, S2, P, 'beta'), (S1, S2, F, 'gamma'),
    ],
}  # fmt: skip


@pytest.fixture(scope='session')
def paper_transfers():
    return PAPER_TRANSFERS


def pytest_collection_modifyitems(items):
    """Begins with the tools' tests: one that takes a minute at the end leaves the others idle."""
    items.sort(key=lambda item: item.path.parent.name != 'tools')


def pytest_collection_finish():
    """Has the garbage collector pass over what is there: mmengine calls it for each data set."""
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    """Ends the processes of a test that waits for them in vain, so that it fails and says where.

    One that hangs without any is ended by ``faulthandler_timeout``, some minutes later.
    """
    seconds = float(item.config.getini('faulthandler_timeout')) * 2 / 3
    timer = threading.Timer(seconds, end_processes, [os.getpid()])
    if seconds:
        timer.start()
    try:
        return (yield)
    finally:
        timer.cancel()


def end_processes(parent):
    """Of a process, those that it started and all of theirs."""
    found = subprocess.run(['pgrep', '-P', str(parent)], stdout=subprocess.PIPE, check=False)
    for child in map(int, found.stdout.split()):
        end_processes(child)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch):
    """What a run sets for its whole process ends with its test, so that no later one depends on it.

    A default scope is where names are looked up, and the variable makes ``torch.load`` refuse all
    but weights.
    """
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '')  # noted, to be put back
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')


@pytest.fixture(autouse=True)
def keys_are_heard():
    """Ctrl-C works as in a terminal, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _end_with_the_tests(function, *args):
    if sys.platform == 'linux':  # also if they are killed, or end because a test hangs
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    function(*args)
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        os._exit(0)  # see mmkdml.apis.cli.common.leave_process_group


@pytest.fixture
def forked():
    """Calls functions, each given with its arguments, in processes of their own, which it gives.

    It does not wait for them; they end with the test.
    """
    processes = []

    def start(*calls):
        fork = multiprocessing.get_context('fork')
        started = [fork.Process(target=_end_with_the_tests, args=call) for call in calls]
        for process in started:
            process.start()
        processes.extend(started)
        return started

    yield start
    for process in processes:
        process.kill()
        process.join()


@pytest.fixture
def all_forked(forked):
    """Calls functions, each given with its arguments, in processes of their own, and waits."""

    def run(*calls):
        processes = forked(*calls)
        for process in processes:
            process.join(500)
        assert [process.exitcode for process in processes] == [0] * len(calls)

    return run


@pytest.fixture
def figure(monkeypatch):
    """The figures that are written, to be looked into."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, path: (figures.append(self), save(self, path))
    )
    return figures


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.fixture
def payload():
    """Of a path: an object that makes this file when it is unpickled."""
    return Payload


@pytest.fixture
def tool(monkeypatch):
    """Runs a tool, or ``benchmark``, with these arguments in this process."""

    def run(name, *args, options=(), experiment=True):
        path = str(ROOT / ('benchmarks/__main__.py' if name == 'benchmark' else f'tools/{name}.py'))
        # Two runs in one process and second would share their log and their history.
        unique = uuid.uuid4().hex
        options = [
            *options,
            *([f'experiment_name={unique}', f'visualizer.name={unique}'] if experiment else []),
        ]
        args = [*map(str, args), *(['--cfg-options', *options] if options else [])]
        monkeypatch.setattr(sys, 'argv', [path, *args])
        runpy.run_path(path, run_name='__main__')

    return run


@pytest.fixture(scope='session')
def slices(tmp_path_factory):
    """Folder of 16 synthetic images, and their split file."""
    root = tmp_path_factory.mktemp('slices')
    source = make_demo_data(root / 'kaggle_3m', patients=6, slices=4, size=64)
    convert_lgg(source, root / 'splits')
    return source, root / 'splits' / 'train.csv'
