import json

import pytest

from benchmarks import suites
from benchmarks.suites import CommandCost, format_suites, measure_suites, run_measured, write_suite
from mmkdml.experiments import load_suite


def test_suite_has_the_wanted_number_of_runs(tmp_path):
    suite = load_suite(write_suite(tmp_path, 2), tmp_path)
    assert len(suite.runs) == 200
    assert len({run.name for run in suite.runs}) == 40


def test_commands_are_measured_in_turn(monkeypatch):
    calls = []

    def measured(folder, command, seconds):
        calls.append(command)
        if 'report' in command:
            return None
        return CommandCost(100.0 if len(calls) == 1 else 2.0, 50.0, 0.5)

    monkeypatch.setattr(suites, 'run_measured', measured)
    costs = measure_suites(100, 5.0)
    assert costs['finish a run'].seconds == 1.0
    assert costs['table'] == CommandCost(2.0, 50.0, 0.5)
    assert costs['report'] is None
    assert [command[1] for command in calls[1:3]] == ['status', 'table']
    with pytest.raises(ValueError, match='at least 100, got 20'):
        measure_suites(20)


def test_cpu_time_memory_and_output_of_a_process(tmp_path):
    script = tmp_path / 'script.py'
    script.write_text("import sys\nkept = b'x' * (200 << 20)\nprint('a' * 999999)\n")
    cost = run_measured(tmp_path, [str(script)], 300.0)
    assert cost.size == pytest.approx(1.0)
    assert cost.memory > 200
    assert json.loads((tmp_path / 'costs.json').read_text()) == [cost.seconds, cost.memory]
    script.write_text("raise RuntimeError('broken')")
    with pytest.raises(ValueError, match='broken'):
        run_measured(tmp_path, [str(script)], 300.0)
    script.write_text('while True: pass')
    assert run_measured(tmp_path, [str(script)], 0.2) is None


def test_format_suites(cells_of):
    assert cells_of(format_suites({'table': CommandCost(4.25, 300.4, 0.5), 'report': None})) == [
        ['command', 'CPU seconds', 'peak MiB', 'output MB'],
        ['table', '4.25', '300', '0.50'],
        ['report', 'not finished', '', ''],
    ]
