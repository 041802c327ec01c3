"""Suites whose runs execute a script instead of a training."""

import sqlite3
import textwrap
import threading
import time

import pandas as pd
import pytest
from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from mmkdml.experiments.run_spec import RunSpec
from mmkdml.experiments.suites.execution.display import SuiteDisplay
from mmkdml.experiments.suites.execution.worker import Worker
from mmkdml.experiments.suites.serialization import serialize_result
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.experiments.suites.suite import Suite
from mmkdml.statistics.records import Measurement

# Behaves as the options of its run specify, and writes a line for each execution.
SCRIPT = """
    import json, os, shutil, signal, sys, time
    from pathlib import Path

    spec = json.loads(Path(sys.argv[1]).read_text())
    folder, options = Path(spec['work_dir']), spec['options']
    def save(*_):
        (folder / 'interrupted.pth').touch()
        os._exit(1)

    if options.get('save'):
        signal.signal(signal.SIGTERM, save)
    with (folder / 'executed').open('a') as executed:
        executed.write(f"{os.getpid()} {spec['teacher_dir']}\\n")
    print('working', flush=True)
    while options.get('hang') and not (folder / 'go').exists():
        time.sleep(0.02)
    if options.get('killed'):
        os.kill(os.getpid(), options['killed'])
    if options.get('fail') and not (folder / 'fixed').exists():
        raise RuntimeError('the images are upside down')
    if options.get('empty'):
        (folder / 'result.json.gz').write_bytes(b'half')
        sys.exit()
    shutil.copy(Path(__file__).with_name('result.json.gz'), folder)
"""


@pytest.fixture(scope='session')
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp('script') / 'run.py'
    path.write_text(textwrap.dedent(SCRIPT))
    cases = pd.DataFrame(
        [('model', '1', 'a', 1, 8, 1, 0)],
        columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'],
    )
    curves = pd.DataFrame([(1, 'loss', 0.5)], columns=['epoch', 'key', 'value'])
    measured = {name: Measurement({'model/IoU': 80.0}, cases) for name in ('best', 'last')}
    result = serialize_result(measured, curves, dict(seconds=1.0))
    path.with_name('result.json.gz').write_bytes(result)
    return path


@pytest.fixture
def make_suite(tmp_path):
    """Build a suite of ``{name: (teacher, options)}`` and its database."""

    def make(runs, seeds=(0,)):
        specs = tuple(
            RunSpec(name, seed, 'config.py', options, teacher)
            for seed in seeds
            for name, (teacher, options) in runs.items()
        )
        suite = Suite('small', 'small.py', 'Small', ('IoU',), (), specs, tmp_path / 'runs')
        store = SuiteStore.in_folder(suite.work_dir)
        store.register(suite.runs, dict.fromkeys(runs, '{"model": {}}'))
        return suite, store

    return make


@pytest.fixture
def make_worker(script):
    """Build a worker that executes the script; ``lines`` has its log."""

    def make(suite, store, stop=None):
        lines = []
        worker = Worker(
            suite,
            store,
            stop or threading.Event(),
            SuiteDisplay(suite, store, lines.append),
            command=[script],
            poll_seconds=0.02,
        )
        worker.lines = lines
        return worker

    return make


class Outage:
    """Faults of a store's database: while ``is_on``, every transaction fails."""

    def __init__(self, store, seconds=600.0):
        self.is_on, self.lines = False, []
        store.database.retry_seconds, store.database.log = seconds, self.lines.append
        event.listen(store.engine, 'begin', self.fail)

    def fail(self, _):
        if self.is_on:
            reason = sqlite3.OperationalError('database is locked')
            raise OperationalError('BEGIN', {}, reason)


@pytest.fixture
def outage():
    """Class of the faults of a store's database."""
    return Outage


@pytest.fixture
def wait_for():
    """Wait until a condition is true, and fail after 300 seconds."""

    def wait(condition):
        end = time.monotonic() + 300
        while not condition():
            assert time.monotonic() < end
            time.sleep(0.01)

    return wait
