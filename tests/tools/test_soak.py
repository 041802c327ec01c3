"""A soak finds what is wrong with runs that are wrong, and nothing in trainings."""

import importlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Counts to 20 and writes each number down, goes on from there; by its last word it is wrong.
TRAINING = """
import pathlib, signal, sys, time
folder, fault = pathlib.Path(sys.argv[1]), sys.argv[2]
path = folder / 'epoch_1.pth'
if fault == 'deaf':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
number, total = map(int, path.read_text().split()) if path.exists() else (0, 0)
if fault == 'fails' or fault == 'fails_resumed' and number:
    sys.exit('there is no such thing')
if fault == 'forgets' and number:
    number += 1
for number in range(number + 1, 21):
    time.sleep(60 if fault == 'deaf' and number == 3 else 0.02)
    total += number
    path.with_suffix('.new').write_text(f'{number} {total}')
    path.with_suffix('.new').replace(path)
if fault == 'litters':
    (folder / '.epoch_1.pth.7.part').touch()
"""

# Starts itself again as a run, which waits for a worker, its own fork, and has another process,
# too; tells what became of it.
SUITE = """
import os, signal, sqlite3, subprocess, sys, time
folder, fault, *run = sys.argv[1:]
if run:
    own, other = os.getpid(), subprocess.Popen(['sleep', '300'], stderr=subprocess.DEVNULL)
    if not (worker := os.fork()):
        while os.getppid() == own:
            time.sleep(0.05)
        os._exit(0)
    killed = os.waitpid(worker, 0)[1] == signal.SIGKILL and other.poll() is None
    other.kill()
    sys.exit('a DataLoader worker is dead' if killed else 'another one is dead')
run = subprocess.run([sys.executable, __file__, folder, fault, 'run'], stderr=-1, text=True)
error = run.stderr or signal.Signals(-run.returncode).name
print(error)
if fault != 'keeps nothing':
    with sqlite3.connect(folder + '/suite.db') as database:
        database.execute('CREATE TABLE runs (state, error)')
        kept = 'something' if fault == 'keeps else' else error
        database.execute("INSERT INTO runs VALUES ('failed', ?), ('done', NULL)", [kept])
sys.exit(1)
"""


@pytest.fixture
def soak(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    module = importlib.import_module('soak')
    image = tmp_path / 'image.tif'
    image.write_bytes(b'an image')
    said = []
    found = module.Soak(tmp_path / 'out', 0, 300.0, [str(image)], said.append)
    found.module, found.said = module, said
    yield found
    assert image.read_bytes() == b'an image'


class Counting:
    """A run that counts."""

    name, depth, seconds, reference = 'counting', 0, 0.6, '20 210'
    codes = {signal.SIGKILL: {-9}, signal.SIGTERM: {-15}}

    def __init__(self, folder, fault):
        self.script, self.fault = folder / 'count.py', fault
        self.script.write_text(TRAINING)

    def words(self, folder, workers):
        return [str(self.script), str(folder), self.fault]

    def outcome(self, folder):
        return (folder / 'epoch_1.pth').read_text()

    def errors(self, folder):
        return []


def violations(soak):
    return [one['verdict'] for one in soak.attempts if 'VIOLATION' in one['verdict']]


def test_a_run_that_goes_on_rightly(soak, tmp_path):
    target = Counting(tmp_path, 'none')
    soak.undisturbed(target)
    assert (target.reference, target.seconds) == ('20 210', soak.attempts[0]['seconds'])
    faults = ['disk', 'image', 'nan']
    soak.live(target, faults)
    assert faults == ['disk', 'image', 'nan']  # the run ended before it could be harmed
    assert [one['verdict'] for one in soak.attempts] == ['as expected', 'came too late']
    assert soak.attempts[1]['equal'] is True
    assert target.seconds == soak.attempts[1]['seconds']
    assert not list((tmp_path / 'out' / 'counting').glob('life_*'))


@pytest.mark.parametrize(
    ('fault', 'verdict'),
    [
        ('fails_resumed', r"VIOLATION: ended with 1, 'there is no such thing'"),
        ('forgets', 'VIOLATION: not what the undisturbed one left'),
        ('litters', 'VIOLATION: not what the undisturbed one left'),
        ('deaf', 'VIOLATION: no end after 2 s'),
    ],
)
def test_what_is_wrong_is_found(soak, tmp_path, monkeypatch, fault, verdict):
    monkeypatch.setattr(soak.module, 'damage_newest', lambda *_: '')
    target = Counting(tmp_path, fault)
    if fault == 'deaf':
        soak.limit = 1.5
    else:
        soak.undisturbed(target)  # for the time it takes here
    faults = ['kill'] * 50  # until one comes at a moment that matters
    while faults and not violations(soak):
        soak.live(target, faults)
    (found,) = violations(soak)
    assert found.startswith(verdict)
    assert any('VIOLATION' in line for line in soak.said)
    assert soak.running.wait(60) is not None


def test_a_run_that_fails_by_itself(soak, tmp_path):
    with pytest.raises(SystemExit, match="without any fault: .*'there is no such thing'"):
        soak.undisturbed(Counting(tmp_path, 'fails'))


def test_an_error_that_says_something_else(soak, tmp_path):
    target = Counting(tmp_path, 'fails')
    soak.live(target, faults := ['disk'])
    assert not faults
    assert violations(soak) == [
        "VIOLATION: ended with 1, 'there is no such thing'; expected {1} and 'File too large'"
    ]


@pytest.mark.parametrize('fault', ['worker', 'run'])
@pytest.mark.parametrize('keeps', ['its error', 'keeps else', 'keeps nothing'])
def test_a_suites_run_and_its_worker_are_killed_and_told_of(soak, tmp_path, fault, keeps):
    errors = importlib.import_module('soak_runs').Suite.errors
    target = Counting(tmp_path, keeps)
    target.depth, target.seconds, target.errors = 1, 0, lambda folder: errors(target, folder)
    target.script.write_text(SUITE)
    attempt = soak.try_once(target, soak.out / 'life', fault)
    clue = attempt['what'] or 'DataLoader worker'
    last = {'keeps else': ' | something', 'keeps nothing': ' | '}.get(keeps)
    if last is None:
        assert (attempt['verdict'], attempt['ending']) == ('as expected', 1)
    else:
        assert attempt['verdict'].startswith('VIOLATION: ended with 1')
        assert attempt['verdict'].endswith(f"{last}'; expected {{1}} and {clue!r}")


@pytest.mark.slow
def test_a_batch_of_nan_stops_a_suites_run(soak, tmp_path, monkeypatch):
    runs = importlib.import_module('soak_runs')
    monkeypatch.chdir(ROOT)
    options, soak.images = runs.make_data(tmp_path / 'data')
    attempt = soak.try_once(runs.Suite(tmp_path, options, 1), soak.out / 'life', 'nan')
    assert (attempt['verdict'], attempt['ending']) == ('as expected', 1)


def test_the_newest_checkpoint_is_damaged(soak, tmp_path):
    for age, name in enumerate(['interrupted.pth', 'a/epoch_3.pth', 'epoch_2.pth', 'best_x.pth']):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (age, age))
    kinds = set()
    for seed in range(8):
        (tmp_path / 'epoch_2.pth').write_bytes(bytes(100))
        told = soak.module.damage_newest(tmp_path, random.Random(seed))
        content = (tmp_path / 'epoch_2.pth').read_bytes()
        bits = sum(byte.bit_count() for byte in content)
        assert (len(content) < 100, bits) == ((True, 0) if 'cut short' in told else (False, 1))
        kinds.add(told)
    assert kinds == {', epoch_2.pth cut short', ', epoch_2.pth one bit flipped'}
    for name in ('interrupted.pth', 'a/epoch_3.pth', 'best_x.pth'):
        assert (tmp_path / name).read_bytes() == bytes(100)
    # The last intact one of a run is left alone.
    for folder in ('nowhere', 'a', '.'):
        assert soak.module.damage_newest(tmp_path / folder, random.Random(0)) == ''


def test_the_summary(soak):
    attempt = dict(target='training', fault='kill', verdict='as expected', equal=None)
    text = soak.module.summary(
        [attempt, attempt | dict(verdict='came too late', equal=True),
         attempt | dict(verdict='VIOLATION: x', equal=False)]
    )  # fmt: skip
    row = text.splitlines()[3].replace('|', ' ').split()
    assert row == ['training', 'kill', '3', '1', '1', '1', '2', '1']


def soaked(tmp_path, *options):
    return subprocess.Popen(
        [sys.executable, ROOT / 'tools' / 'soak.py', '--out', tmp_path / 'out', *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
    )


@pytest.mark.slow
def test_trainings_end_the_same_after_each_fault(tmp_path):
    counts = '--kills=1', '--suite-kills=0', '--others=1', '--suite-others=0'
    process = soaked(tmp_path, *counts, '--epochs=2')
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said
    record = json.loads((tmp_path / 'out' / 'summary.json').read_text())
    met = [one['fault'] for one in record['attempts'] if one['verdict'] == 'as expected']
    assert sorted(set(met) - {'none'}) == ['disk', 'image', 'kill', 'nan', 'worker']
    assert any(one['equal'] for one in record['attempts'])
    table = (tmp_path / 'out' / 'summary.txt').read_text()
    assert table.strip() in said
    assert len((tmp_path / 'out' / 'soak.log').read_text().splitlines()) == len(record['attempts'])


def alive(number):
    """Whether there is such a process, other than one that only waits to be forgotten."""
    found = subprocess.run(
        ['ps', '-o', 'stat=', '-p', number], capture_output=True, text=True, check=False
    ).stdout.strip()
    return bool(found) and not found.startswith('Z')


def children(number):
    found = subprocess.run(
        ['pgrep', '-P', str(number)], capture_output=True, text=True, check=False
    )
    return found.stdout.split()


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_that_runs(tmp_path):
    process = soaked(tmp_path, '--kills', '1', '--suite-kills', '0')
    end = time.monotonic() + 500
    while not list((tmp_path / 'out').glob('attempt_*.log')):
        assert time.monotonic() < end
        time.sleep(0.05)
    own = children(process.pid)
    runs = [one for parent in own for one in children(parent)]
    assert runs
    process.send_signal(signal.SIGINT)
    assert process.wait(300) == 130
    assert 'Traceback' not in process.stdout.read()
    while any(map(alive, [*own, *runs])):
        assert time.monotonic() < end
        time.sleep(0.1)
