"""List the modules whose features can be tapped: python tools/list_taps.py CONFIG"""

from mmkdml.apis import config_parser, run_tool


def main() -> None:
    parser = config_parser(
        'List the modules of each member and the shapes of their outputs. Needs neither data nor '
        'weights.'
    )
    parser.add_argument('--member', metavar='NAME', help='list only this member')
    parser.add_argument(
        '--depth', type=int, metavar='N', help='list only names with at most N parts'
    )
    parser.add_argument('--match', metavar='PATTERN', help="list only names like '*.layer?'")
    parser.add_argument(
        '--method',
        help='print instead the taps that a method such as at compares, for each pair of members, '
        'with the lines of a transfer',
    )
    args = parser.parse_args()
    if args.method and (args.depth is not None or args.match):
        parser.error('--method selects the modules: omit --depth and --match')

    from mmkdml.apis import load_config
    from mmkdml.inspection import format_suggestion, format_taps, inspect_config

    inspection = inspect_config(load_config(args.config, args.cfg_options))
    if args.method:
        print(format_suggestion(inspection, args.method, args.member))
    else:
        print(format_taps(inspection, args.member, args.depth, args.match))


if __name__ == '__main__':
    run_tool(main)
