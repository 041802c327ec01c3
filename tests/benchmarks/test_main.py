import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks import (
    EvaluationCost,
    MethodCost,
    OfflineCost,
    PeerCost,
    PrecisionCost,
    StartupCost,
    StepCost,
    StudentCost,
    format_startup,
)
from benchmarks.end_to_end import RunSpeed
from benchmarks.inference import InferenceCost
from benchmarks.loading import LoadingSpeed, ReadingSpeed
from benchmarks.suites import CommandCost, format_suites

STUDY = Path(__file__).parents[2] / 'configs' / 'study'
PLAIN, METHOD = STUDY / 'ham64_kd.py', STUDY / 'ham64_at.py'


def test_methods(tool, capsys, monkeypatch, tmp_path):
    calls = {}

    def measure(configs, batch_size, rounds):
        calls.update(configs=configs, numbers=(batch_size, rounds))
        return {
            name: MethodCost(StepCost(1.0 + place / 4, 100.0), 1000 * place)
            for place, name in enumerate(configs)
        }

    monkeypatch.setattr(benchmarks, 'measure_methods', measure)
    options = ['model.input_size=[32,96]']
    numbers = ['--batch-size', '3', '--rounds', '2', '--json', tmp_path / 'costs.json']
    tool('benchmark', 'methods', PLAIN, METHOD, *numbers, options=options, experiment=False)
    assert list(calls['configs']) == [str(PLAIN), str(METHOD)]
    assert [config.model.input_size for config in calls['configs'].values()] == [[32, 96]] * 2
    assert calls['numbers'] == (3, 2)
    row = next(line for line in capsys.readouterr().out.splitlines() if str(METHOD) in line)
    assert row.split()[3:-1:2] == ['1.250', '1.25', '100', '1.00', '1,000']
    assert json.loads((tmp_path / 'costs.json').read_text())[str(METHOD)] == dict(
        step=dict(seconds=1.25, memory=100.0), parameters=1000
    )


STEPS = '--batch-size 3 --rounds 2'
STUDENTS = {1: StudentCost(1.5, 1.25, 1.0)}, ['1', '1.500', '1.250', '1.200', '1.000', '1.500']
PRECISION = dict(a=PrecisionCost(1.5, 2.0, 0)), ['a', '1.500', '2.00', '0.0e+00']
INFERENCE = (dict(a=InferenceCost(2.0, 1.5, 4, 1)), ['sum', '3 of 4', '2.000', '1.500', '0.750'])
OFFLINE = OfflineCost(2.0, 2.5, 1.0, 16.0, 1e-7), ['read from the cache', '1.000', '0.500']
EVALUATION = dict(test=EvaluationCost(0.5, 0.25)), ['test', '0.250', '500.0']
LOADING = dict(a=LoadingSpeed(3, True, 400.0, 0.02)), ['3', 'cache', '400', '20.0', 'yes']
READING = (
    {'whole pipeline': ReadingSpeed('ours', 0.02), 'reading': ReadingSpeed('ours', 0.01)},
    ['reading', '1.00', '100', '50%'],
)
RUNS = (dict(classroom=RunSpeed(0.2, 40.0), one=RunSpeed(0.25, 32.0)), ['ratio', '0.800', '1.250'])


@pytest.mark.parametrize(
    ('command', 'measure', 'flags', 'arguments', 'costs', 'last_row'),
    [
        ('students', 'measure_students', f'{STEPS} --most 2', [3, 2, 2], *STUDENTS),
        ('students', 'measure_students', STEPS, [3, 2, 4], *STUDENTS),
        ('precision', 'measure_precisions', f'{STEPS} --compile', [3, 2, True], *PRECISION),
        ('precision', 'measure_precisions', STEPS, [3, 2, False], *PRECISION),
        ('inference', 'measure_inference', STEPS, [3, 2], *INFERENCE),
        ('offline', 'measure_offline', f'{STEPS} --dtype float16', [3, 2, 'float16'], *OFFLINE),
        (
            'evaluation',
            'measure_evaluation',
            f'{STEPS} --original-size 8 9',
            [3, 2, [8, 9]],
            *EVALUATION,
        ),
        ('evaluation', 'measure_evaluation', STEPS, [3, 2, None], *EVALUATION),
        (
            'data',
            'measure_loading',
            '--workers 0 3 --batches 7 --rounds 2 --step-seconds 0.01',
            [[0, 3], 7, 2],
            *LOADING,
        ),
        ('data', 'measure_loading', '--batches 7 --step-seconds 0.01', [[0, 2, 4], 7, 5], *LOADING),
        ('data', 'measure_reading', '--readers --batches 7 --rounds 2', [7, 2], *READING),
        ('end-to-end', 'measure_runs', '--iterations 4 --rounds 2', [4, 2], *RUNS),
    ],
)
def test_benchmarks_of_one_config(
    tool, capsys, monkeypatch, tmp_path, cells_of, command, measure, flags, arguments, costs,
    last_row,
):  # fmt: skip
    calls = []
    monkeypatch.setattr(benchmarks, measure, lambda *args: (calls.extend(args), costs)[1])
    flags = [*flags.split(), '--json', tmp_path / 'costs.json']
    options = ['model.input_size=[32,96]']
    tool('benchmark', command, PLAIN, *flags, options=options, experiment=False)
    assert calls[0].model.input_size == [32, 96]
    assert calls[1:] == arguments
    assert cells_of(capsys.readouterr().out)[-1] == last_row
    if command == 'offline':
        costs = {PLAIN: costs}
    assert json.loads((tmp_path / 'costs.json').read_text()) == {
        str(name): dataclasses.asdict(cost) for name, cost in costs.items()
    }


@pytest.mark.parametrize(
    ('configs', 'message'),
    [((PLAIN,), 'arguments are required: OTHER'), ((PLAIN, METHOD, PLAIN), 'duplicate config')],
)
def test_invalid_methods_print_the_usage(tool, capsys, configs, message):
    with pytest.raises(SystemExit, match='2'):
        tool('benchmark', 'methods', *configs, experiment=False)
    error = capsys.readouterr().err
    assert error.startswith('usage: python -m benchmarks methods')
    assert message in error


@pytest.mark.parametrize('flags', [('--workers', 0), ('--step-seconds', 1)])
def test_readers_have_no_workers(tool, capsys, flags):
    with pytest.raises(SystemExit, match='2'):
        tool('benchmark', 'data', PLAIN, '--readers', *flags, experiment=False)
    assert '--readers: expected neither --workers' in capsys.readouterr().err


def test_peers(tool, capsys, monkeypatch, tmp_path):
    calls = {}

    def measure(commands, rounds, approximate):
        calls.update(commands=commands, rounds=rounds, approximate=approximate)
        for command in commands.values():
            assert Path(command[1]).is_file()
            assert torch.load(command[2], weights_only=True)['inputs'].shape == (2, 3, 224, 224)
        return {name: PeerCost(1.5, 100.0, [0.7, 0.6]) for name in commands}

    monkeypatch.setattr(benchmarks, 'measure_peers', measure)
    arguments = ['--torchdistill', 'its-python', '--batch-size', 2, '--rounds', 4]
    tool('benchmark', 'peers', 'fitnet', *arguments, experiment=False)
    assert calls['rounds'] == 4
    pythons = dict(mmkdml=sys.executable, torchdistill='its-python')
    [name] = calls['approximate']
    assert {
        name: [command[0], Path(command[1]).name, *command[3:]]
        for name, command in calls['commands'].items()
    } == {
        package + note: [python, f'{package}_peer.py', 'fitnet', *keep]
        for package, python in pythons.items()
        for note, keep in (('', []), (', freed memory kept', ['--keep-freed-memory']))
    } | {name: [sys.executable, 'mmkdml_peer.py', 'fitnet', '--keep-freed-memory', '--fast']}
    assert 'torchdistill, freed memory kept   |   1.500' in capsys.readouterr().out


def test_errors_are_one_line(tool):
    baseline = STUDY / 'ham64_student.py'
    with pytest.raises(SystemExit, match='benchmarks: error: .* a single network in this config'):
        tool('benchmark', 'step', baseline, experiment=False)
    with pytest.raises(SystemExit, match='benchmarks: error: There is no config file gone.py'):
        tool('benchmark', 'methods', PLAIN, 'gone.py', experiment=False)


def test_unknown_benchmark_lists_all(tool, capsys):
    with pytest.raises(SystemExit, match='2'):
        tool('benchmark', 'measure', experiment=False)
    error = capsys.readouterr().err
    names = (
        'step methods students precision inference offline evaluation data end-to-end peers '
        'startup calibration suites'
    )
    assert all(name in error for name in names.split())


def test_startup(tool, capsys, monkeypatch, tmp_path):
    costs = {'import torch': StartupCost(1.5), 'import mmkdml': StartupCost(1.75, 0.25)}
    rounds = []
    monkeypatch.setattr(benchmarks, 'measure_startup', lambda n: (rounds.append(n), costs)[1])
    path = tmp_path / 'costs.json'
    tool('benchmark', 'startup', '--rounds', 3, '--json', path, experiment=False)
    assert rounds == [3]
    assert capsys.readouterr().out == format_startup(costs) + '\n'
    assert json.loads(path.read_text())['import mmkdml'] == dict(seconds=1.75, added=0.25)


def test_suites(tool, capsys, monkeypatch, tmp_path):
    costs = {'status': CommandCost(1.5, 99.0, 0.25), 'report': None}
    calls = []
    monkeypatch.setattr(benchmarks, 'measure_suites', lambda *args: (calls.append(args), costs)[1])
    path = tmp_path / 'costs.json'
    flags = ['--runs', 200, '--limit', 30, '--json', path]
    tool('benchmark', 'suites', *flags, experiment=False)
    tool('benchmark', 'suites', experiment=False)
    assert calls == [(200, 30), (5000, 600)]
    assert capsys.readouterr().out == 2 * (format_suites(costs) + '\n')
    assert json.loads(path.read_text()) == {'status': dict(seconds=1.5, memory=99.0, size=0.25)}
