"""Print members, transfers and savings: python tools/print_classroom.py CONFIG"""

from mmkdml.apis import config_parser, run_tool


def main() -> None:
    parser = config_parser(
        'Print the members, the transfers between them, and the parameters and FLOPs saved by the '
        'ensemble. Needs neither data nor weights.'
    )
    args = parser.parse_args()

    from mmkdml.apis import load_config
    from mmkdml.inspection import describe, inspect_config

    print(describe(inspect_config(load_config(args.config, args.cfg_options))))


if __name__ == '__main__':
    run_tool(main)
