"""Measures what a classroom costs: python tools/benchmark.py step CONFIG"""

import sys

from mmkdml.analysis import format_costs, measure_steps
from mmkdml.apis import config_parser, load_config, run_tool


def step(arguments: list[str]) -> None:
    parser = config_parser(
        "Compare a training step of the classroom with the sum of its members' own plain steps, "
        'in time and peak memory, on a made-up batch on the CPU.'
    )
    parser.prog += ' step'
    parser.add_argument('--batch-size', type=int, default=8, help='images in the batch (8)')
    parser.add_argument('--rounds', type=int, default=5, help='measured steps of each kind (5)')
    args = parser.parse_args(arguments)
    config = load_config(args.config, args.cfg_options)
    print(format_costs(measure_steps(config, args.batch_size, args.rounds)))


COMMANDS = dict(step=step)


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ''
    if name not in COMMANDS:
        sys.exit(f'usage: benchmark.py {{{",".join(COMMANDS)}}} CONFIG [--help]')
    COMMANDS[name](sys.argv[2:])


if __name__ == '__main__':
    run_tool(main)
