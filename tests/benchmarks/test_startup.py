import json
import sys

import pytest

from benchmarks import startup
from benchmarks.startup import (
    FIRST_STEP,
    ROOT,
    StartupCost,
    cpu_seconds,
    format_startup,
    measure_startup,
)


def test_all_processes_are_measured_in_turn(monkeypatch):
    calls = []

    def seconds(arguments):
        calls.append(tuple(arguments))
        return 2.0 if arguments[0] != '-c' else 1.0 + ('mmkdml' in arguments[1]) / 4

    monkeypatch.setattr(startup, 'cpu_seconds', seconds)
    costs = measure_startup(rounds=2)
    assert calls == calls[: len(costs)] * 3  # a warm-up and two rounds
    assert costs['import torch'] == StartupCost(1.0)
    assert costs['import mmkdml'] == costs['import mmkdml.models'] == StartupCost(1.25, 0.25)
    tools = {path.relative_to(ROOT / 'tools').as_posix() for path in ROOT.glob('tools/**/*.py')}
    assert {f'{tool} --help' for tool in tools} < costs.keys()
    assert 'dataset_converters/lgg.py --help' in costs
    assert costs['suite.py status'] == costs['train.py --help'] == StartupCost(2.0)
    assert costs[FIRST_STEP] == StartupCost(1.25, 0.25)
    assert calls[len(costs) - 2][:2] == (str(ROOT / 'tools' / 'suite.py'), 'status')
    assert str(ROOT / 'tools' / 'train.py') in calls[len(costs) - 1]


def test_training_ends_before_its_first_step(tmp_path):
    """It may start again in the same folder, and an error of the training is reported."""
    arguments = startup._training(tmp_path)
    for _ in range(2):
        assert cpu_seconds(arguments) > 0
    records = list((tmp_path / 'run').glob('*/call_train.json'))
    assert {json.loads(path.read_text())['start_iter'] for path in records} == {0}
    assert not list((tmp_path / 'run').glob('*.pth'))
    with pytest.raises(ValueError, match='Unknown option nonsense'):
        cpu_seconds([*arguments, 'nonsense=1'])


def test_format_startup(cells_of):
    costs = {
        'import torch': StartupCost(1.5),
        'import mmkdml': StartupCost(1.754, 0.254),
        'suite.py status': StartupCost(2.0),
    }
    assert cells_of(format_startup(costs)) == [
        ['process', 'CPU seconds', 'beyond import torch'],
        ['import torch', '1.50', ''],
        ['import mmkdml', '1.75', '0.25'],
        ['suite.py status', '2.00', ''],
    ]


def test_cpu_seconds_include_child_processes():
    work = 'sum(range(10**7))'
    child = f'import subprocess; subprocess.run([{sys.executable!r}, "-c", {work!r}])'
    assert cpu_seconds(['-c', child]) > cpu_seconds(['-c', 'pass'])


def test_failed_process_raises():
    with pytest.raises(ValueError, match='exit code 3:\n.*'):
        cpu_seconds(['-c', 'import sys; print("broken", file=sys.stderr); sys.exit(3)'])
    with pytest.raises(ValueError, match='broken'):
        cpu_seconds(['-c', 'raise RuntimeError("broken")'])


def test_rounds_below_one_raise():
    with pytest.raises(ValueError, match='rounds: expected at least 1, got 0'):
        measure_startup(0)
