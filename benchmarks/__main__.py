"""Command line of the benchmarks: ``python -m benchmarks BENCHMARK ...``."""

from __future__ import annotations

import argparse
import dataclasses
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import benchmarks
from mmkdml.apis import run_tool
from mmkdml.apis.cli.common import add_cfg_options

PEERS = Path(__file__).parent / 'peer_scripts'


def main() -> None:
    parser = argparse.ArgumentParser(
        prog='python -m benchmarks',
        description='Measure training steps, data loading, start-up and tests of claims. The '
        'compared times are interleaved, and medians over rounds.',
    )
    commands = parser.add_subparsers(metavar='BENCHMARK', required=True)
    _add(
        commands,
        step,
        'compare a training step of a classroom with the sum of the separate steps of its members, '
        'in time and peak memory, on random images on the CPU',
    )
    command = _add(
        commands,
        methods,
        'compare training steps of several classrooms with the first one, in time, peak memory and '
        'parameters, on random images on the CPU',
    )
    command.add_argument('others', metavar='OTHER', nargs='+', help='configs of the others')
    command = _add(
        commands,
        students,
        'compare training steps of a classroom with 1, 2, ... copies of its first student, on '
        'random images on the CPU',
    )
    _add_number(command, '--most', 4, 'largest number of students')
    command = _add(
        commands,
        precision,
        'compare training steps in float32 and bfloat16, with channels last, a fused optimizer and '
        'torch.compile, on random images on the CPU',
    )
    command.add_argument('--compile', action='store_true', help='add torch.compile (takes minutes)')
    _add(
        commands,
        inference,
        'compare forward passes of each member with and without fused batch normalizations, on '
        'random images on the CPU',
    )
    command = _add(
        commands,
        offline,
        'compare training steps that run frozen members with steps that cache their outputs or '
        'read them from the cache, on random images on the CPU',
    )
    command.add_argument(
        '--dtype', choices=('float16', 'bfloat16'), help='precision of cached outputs'
    )
    command = _add(
        commands,
        evaluation,
        'compare the metrics of an evaluation with the forward passes of all members, on random '
        'images on the CPU',
    )
    command.add_argument(
        '--original-size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='size at which masks are scored (default: the input size)',
    )
    command = _add(
        commands,
        data,
        'measure images per second of the training data loader, from image files and from a cache '
        'of decoded images',
        batch_size=False,
    )
    command.add_argument(
        '--readers',
        action='store_true',
        help='instead, measure each transform in one thread, and plain decoders on the same files',
    )
    command.add_argument(
        '--workers', type=int, nargs='+', help='numbers of workers (default: 0 2 4)'
    )
    _add_number(command, '--batches', 50, 'batches per round')
    command.add_argument(
        '--step-seconds',
        type=float,
        metavar='S',
        help='mark loaders that are too slow for steps of S seconds',
    )
    command = _add(
        commands,
        end_to_end,
        'compare training runs, with data loading, of a classroom and of its members',
        batch_size=False,
    )
    _add_number(command, '--iterations', 30, 'measured iterations per run')
    command = _add(
        commands,
        peers,
        'compare a training step of offline distillation with the same step in other packages, '
        'with the same weights and batch, on the CPU',
        config=False,
    )
    command.add_argument('method', choices=('kd', 'fitnet'))
    for package in ('torchdistill', 'mmrazor'):
        command.add_argument(
            f'--{package}', metavar='PYTHON', help=f'Python of an environment with {package}'
        )
    _add(
        commands,
        startup,
        'measure the CPU time of imports, of every tool with --help, and of suite.py status',
        config=False,
        batch_size=False,
    )
    command = _add(
        commands,
        calibration,
        'simulate suites and compute size, family error, coverage and power of the tests of '
        'claims, with their Monte Carlo errors',
        config=False,
        batch_size=False,
        rounds=False,
    )
    _add_number(command, '--suites', 500, 'simulated suites per regime')
    command = _add(
        commands,
        suites,
        'measure CPU time, peak memory and output size of the commands of a suite with fabricated '
        'results',
        config=False,
        batch_size=False,
        rounds=False,
    )
    _add_number(command, '--runs', 5000, 'runs of the suite, in steps of 100')
    _add_number(command, '--limit', 600, 'seconds after which a command is stopped')
    args = parser.parse_args()
    args.func(args)


def step(args: argparse.Namespace) -> None:
    costs = benchmarks.measure_steps(_config(args), args.batch_size, args.rounds)
    _report(costs, benchmarks.format_costs(costs), args.json)


def methods(args: argparse.Namespace) -> None:
    paths = [args.config, *args.others]
    if len(set(paths)) < len(paths):
        args.error('duplicate config: name each one once')
    configs = {path: _config(args, path) for path in paths}
    costs = benchmarks.measure_methods(configs, args.batch_size, args.rounds)
    _report(costs, benchmarks.format_method_costs(costs), args.json)


def students(args: argparse.Namespace) -> None:
    costs = benchmarks.measure_students(_config(args), args.batch_size, args.rounds, args.most)
    _report(costs, benchmarks.format_students(costs), args.json)


def precision(args: argparse.Namespace) -> None:
    costs = benchmarks.measure_precisions(_config(args), args.batch_size, args.rounds, args.compile)
    _report(costs, benchmarks.format_precisions(costs), args.json)


def inference(args: argparse.Namespace) -> None:
    costs = benchmarks.measure_inference(_config(args), args.batch_size, args.rounds)
    _report(costs, benchmarks.format_inference(costs), args.json)


def offline(args: argparse.Namespace) -> None:
    cost = benchmarks.measure_offline(_config(args), args.batch_size, args.rounds, args.dtype)
    _report({args.config: cost}, benchmarks.format_offline_cost(cost), args.json)


def evaluation(args: argparse.Namespace) -> None:
    numbers = args.batch_size, args.rounds, args.original_size
    costs = benchmarks.measure_evaluation(_config(args), *numbers)
    _report(costs, benchmarks.format_evaluation(costs), args.json)


def data(args: argparse.Namespace) -> None:
    if args.readers:
        if args.workers or args.step_seconds is not None:
            args.error('--readers: expected neither --workers nor --step-seconds')
        reading = benchmarks.measure_reading(_config(args), args.batches, args.rounds)
        _report(reading, benchmarks.format_reading(reading), args.json)
        return
    workers = args.workers or [0, 2, 4]
    speeds = benchmarks.measure_loading(_config(args), workers, args.batches, args.rounds)
    _report(speeds, benchmarks.format_loading(speeds, args.step_seconds), args.json)


def end_to_end(args: argparse.Namespace) -> None:
    speeds = benchmarks.measure_runs(_config(args), args.iterations, args.rounds)
    _report(speeds, benchmarks.format_runs(speeds), args.json)


def peers(args: argparse.Namespace) -> None:
    pythons = dict(mmkdml=sys.executable, torchdistill=args.torchdistill, mmrazor=args.mmrazor)
    with tempfile.TemporaryDirectory() as folder:
        problem = f'{folder}/problem.pth'
        runpy.run_path(str(PEERS / 'problem.py'))['write_problem'](problem, args.batch_size)
        commands = {
            package + note: [python, str(PEERS / f'{package}_peer.py'), problem, args.method, *keep]
            for note, keep in ((', freed memory kept', ['--keep-freed-memory']), ('', []))
            for package, python in pythons.items()
            if python is not None
        }
        fast = 'mmkdml, --fast, freed memory kept'
        commands[fast] = [*next(iter(commands.values())), '--fast']
        costs = benchmarks.measure_peers(commands, args.rounds, approximate=[fast])
    _report(costs, benchmarks.format_peer_costs(costs), args.json)


def startup(args: argparse.Namespace) -> None:
    costs = benchmarks.measure_startup(args.rounds)
    _report(costs, benchmarks.format_startup(costs), args.json)


def calibration(args: argparse.Namespace) -> None:
    found = benchmarks.measure_calibrations(args.suites)
    _report(found, benchmarks.format_calibration(found), args.json)


def suites(args: argparse.Namespace) -> None:
    costs = benchmarks.measure_suites(args.runs, args.limit)
    _report(
        {name: one for name, one in costs.items() if one},
        benchmarks.format_suites(costs),
        args.json,
    )


def _add(
    commands: Any,
    func: Callable[[argparse.Namespace], None],
    text: str,
    config: bool = True,
    batch_size: bool = True,
    rounds: bool = True,
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(
        func.__name__.replace('_', '-'), help=text, description=f'{text[0].upper()}{text[1:]}.'
    )
    if config:
        command.add_argument('config', metavar='CONFIG', help='config file')
        add_cfg_options(command)
    if batch_size:
        _add_number(command, '--batch-size', 8, 'images per batch')
    if rounds:
        _add_number(command, '--rounds', 5, 'measurements of each kind')
    command.add_argument(
        '--json', type=_new_file, metavar='FILE', help='also write the values to this new file'
    )
    command.set_defaults(func=func, error=command.error)
    return command


def _add_number(command: argparse.ArgumentParser, name: str, default: int, text: str) -> None:
    command.add_argument(name, type=int, default=default, help=f'{text} (default: %(default)s)')


def _config(args: argparse.Namespace, path: str = '') -> Any:
    from mmkdml.apis import load_config

    return load_config(path or args.config, args.cfg_options)


def _new_file(path: str) -> Path:
    if Path(path).exists():
        raise argparse.ArgumentTypeError(f'{path} exists. Choose another file')
    return Path(path)


def _report(costs: Mapping[Any, Any], table: str, path: Path | None) -> None:
    """Print the table, and write the values to a JSON file if there is a path."""
    from mmkdml.files import json_text

    print(table)
    if path is not None:
        values = {name: dataclasses.asdict(cost) for name, cost in costs.items()}
        path.write_text(json_text(values, indent=2) + '\n')


if __name__ == '__main__':
    run_tool(main)
