"""Prints members, transfers and savings: python tools/print_classroom.py CONFIG"""

from mmkdml.apis import config_parser, load_config, run_tool
from mmkdml.inspection import describe, inspect_config


def main() -> None:
    parser = config_parser(
        'Print who is in the classroom, who teaches whom, and how much smaller the ensemble is. '
        'Needs no data and no weights.'
    )
    args = parser.parse_args()
    print(describe(inspect_config(load_config(args.config, args.cfg_options))))


if __name__ == '__main__':
    run_tool(main)
