"""Lists where features can be taken: python tools/list_taps.py CONFIG"""

from mmkdml.apis import config_parser, load_config, run_tool
from mmkdml.inspection import format_suggestion, format_taps, inspect_config


def main() -> None:
    parser = config_parser(
        'List the modules of each member with the shapes of their outputs. Needs no data and no '
        'weights.'
    )
    parser.add_argument('--member', help='only this member')
    parser.add_argument('--depth', type=int, help='only names of at most this many parts')
    parser.add_argument('--match', metavar='PATTERN', help="only these names, e.g. '*.layer?'")
    parser.add_argument(
        '--method',
        help='instead, the taps that this method compares, such as at, for each pair of a '
        "classroom's members, with the lines for a transfer",
    )
    args = parser.parse_args()
    if args.method and (args.depth is not None or args.match):
        parser.error('--method chooses the modules; leave out --depth and --match')
    inspection = inspect_config(load_config(args.config, args.cfg_options))
    if args.method:
        print(format_suggestion(inspection, args.method, args.member))
    else:
        print(format_taps(inspection, args.member, args.depth, args.match))


if __name__ == '__main__':
    run_tool(main)
