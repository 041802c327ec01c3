"""Command line of the benchmarks: ``python -m benchmarks {step,methods,...} ...``."""

import argparse
import dataclasses
import runpy
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import (
    format_costs,
    format_loading,
    format_method_costs,
    format_offline_cost,
    format_peer_costs,
    format_precisions,
    format_runs,
    format_students,
    measure_loading,
    measure_methods,
    measure_offline,
    measure_peers,
    measure_precisions,
    measure_runs,
    measure_steps,
    measure_students,
)
from mmkdml.apis import config_parser, load_config, run_tool
from mmkdml.files import json_text

PEERS = Path(__file__).parent / 'peer_scripts'


def step(arguments: list[str]) -> None:
    parser = _parser(
        'step',
        "Compare a training step of the classroom with the sum of its members' own plain steps, "
        'in time and peak memory, on a made-up batch on the CPU.',
    )
    args = parser.parse_args(arguments)
    config = load_config(args.config, args.cfg_options)
    costs = measure_steps(config, args.batch_size, args.rounds)
    _tell(costs, format_costs(costs), args.json)


def methods(arguments: list[str]) -> None:
    parser = _parser(
        'methods',
        'Compare training steps of several classrooms with that of the first, in time, peak memory '
        'and parameters, on made-up batches on the CPU. The steps take turns.',
    )
    parser.add_argument(
        'others', metavar='OTHER', nargs='+', help='config files to compare it with'
    )
    args = parser.parse_args(arguments)
    paths = [args.config, *args.others]
    if len(set(paths)) < len(paths):
        parser.error('a config is named twice; name each once')
    configs = {path: load_config(path, args.cfg_options) for path in paths}
    costs = measure_methods(configs, args.batch_size, args.rounds)
    _tell(costs, format_method_costs(costs), args.json)


def students(arguments: list[str]) -> None:
    parser = _parser(
        'students',
        'Measure how the training step of a classroom grows with the number of its students, '
        'copies of the first one, on a made-up batch on the CPU. The steps take turns.',
    )
    parser.add_argument('--most', type=int, default=4, help='largest number of students (4)')
    args = parser.parse_args(arguments)
    config = load_config(args.config, args.cfg_options)
    costs = measure_students(config, args.batch_size, args.rounds, args.most)
    _tell(costs, format_students(costs), args.json)


def precision(arguments: list[str]) -> None:
    parser = _parser(
        'precision',
        'Compare training steps of one config in float32 and bfloat16, with channels last, with a '
        'fused optimiser, and compiled, on a made-up batch on the CPU. The steps take turns.',
    )
    parser.add_argument('--compile', action='store_true', help='also by torch.compile: minutes')
    args = parser.parse_args(arguments)
    config = load_config(args.config, args.cfg_options)
    costs = measure_precisions(config, args.batch_size, args.rounds, args.compile)
    _tell(costs, format_precisions(costs), args.json)


def offline(arguments: list[str]) -> None:
    parser = _parser(
        'offline',
        'Compare training steps in which frozen members run with those in which what they say is '
        'kept, and is found, on made-up batches on the CPU. The steps take turns.',
    )
    parser.add_argument('--dtype', choices=('float16', 'bfloat16'), help='round what is kept')
    args = parser.parse_args(arguments)
    config = load_config(args.config, args.cfg_options)
    cost = measure_offline(config, args.batch_size, args.rounds, args.dtype)
    _tell({args.config: cost}, format_offline_cost(cost), args.json)


def data(arguments: list[str]) -> None:
    parser = _parser(
        'data',
        "Measure the training's data loader, in images a second, from image files and from a cache "
        'of decoded images. The loaders take turns.',
        batch_size=False,
    )
    parser.add_argument(
        '--workers', type=int, nargs='+', default=[0, 2, 4], help='numbers of workers (0 2 4)'
    )
    parser.add_argument('--batches', type=int, default=50, help='batches in a round (50)')
    parser.add_argument(
        '--step-seconds',
        type=float,
        metavar='S',
        help='of a training step: who is too slow for it?',
    )
    args = parser.parse_args(arguments)
    config = load_config(args.config, args.cfg_options)
    speeds = measure_loading(config, args.workers, args.batches, args.rounds)
    _tell(speeds, format_loading(speeds, args.step_seconds), args.json)


def end_to_end(arguments: list[str]) -> None:
    parser = _parser(
        'end-to-end',
        "Compare the classroom's training, with data loading, with the sum of its members' own, in "
        'runs of mmengine that take turns.',
        batch_size=False,
    )
    parser.add_argument('--iterations', type=int, default=30, help='measured in each run (30)')
    args = parser.parse_args(arguments)
    config = load_config(args.config, args.cfg_options)
    speeds = measure_runs(config, args.iterations, args.rounds)
    _tell(speeds, format_runs(speeds), args.json)


def peers(arguments: list[str]) -> None:
    parser = _parser(
        'peers',
        "Compare a training step of offline distillation with other packages', with the same "
        'weights and batch, on the CPU. The steps take turns.',
        config=False,
    )
    parser.add_argument('method', choices=('kd', 'fitnet'))
    for package in ('torchdistill', 'mmrazor'):
        parser.add_argument(f'--{package}', metavar='PYTHON', help='of an environment with it')
    args = parser.parse_args(arguments)
    pythons = dict(mmkdml=sys.executable, torchdistill=args.torchdistill, mmrazor=args.mmrazor)
    with tempfile.TemporaryDirectory() as folder:
        problem = f'{folder}/problem.pth'
        runpy.run_path(str(PEERS / 'problem.py'))['write_problem'](problem, args.batch_size)
        commands = {
            package + note: [python, str(PEERS / f'{package}_peer.py'), problem, args.method, *kept]
            for note, kept in ((', freed memory kept', ['--keep-freed-memory']), ('', []))
            for package, python in pythons.items()
            if python is not None
        }
        costs = measure_peers(commands, args.rounds)
    _tell(costs, format_peer_costs(costs), args.json)


def _parser(
    command: str, description: str, batch_size: bool = True, config: bool = True
) -> argparse.ArgumentParser:
    parser = (
        config_parser(description) if config else argparse.ArgumentParser(description=description)
    )
    parser.prog = f'python -m benchmarks {command}'
    if batch_size:
        parser.add_argument('--batch-size', type=int, default=8, help='images in the batch (8)')
    parser.add_argument('--rounds', type=int, default=5, help='measured steps of each kind (5)')
    parser.add_argument(
        '--json', type=_new_file, metavar='FILE', help='also write them to this file'
    )
    return parser


def _new_file(path: str) -> Path:
    if Path(path).exists():
        raise argparse.ArgumentTypeError(f'{path} exists already. Choose another file')
    return Path(path)


def _tell(costs: Mapping[Any, Any], table: str, path: Path | None) -> None:
    """Prints the table and writes what it is made of: for each name a dataclass."""
    print(table)
    if path is not None:
        figures = {name: dataclasses.asdict(cost) for name, cost in costs.items()}
        path.write_text(json_text(figures, indent=2) + '\n')


COMMANDS = {
    'step': step,
    'methods': methods,
    'students': students,
    'precision': precision,
    'offline': offline,
    'data': data,
    'end-to-end': end_to_end,
    'peers': peers,
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    if name not in COMMANDS:
        sys.exit(f'usage: python -m benchmarks {{{",".join(COMMANDS)}}} ... [--help]')
    COMMANDS[name](sys.argv[2:])


if __name__ == '__main__':
    run_tool(main)
