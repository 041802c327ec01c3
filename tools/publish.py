"""Publish a trained ensemble: python tools/publish.py CONFIG CHECKPOINT --out DIR"""

from mmkdml.apis import config_parser, run_tool


def main() -> None:
    parser = config_parser('Write a checkpoint of the students only, and a config to test it with.')
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='checkpoint file, or folder of a run for its best checkpoint',
    )
    parser.add_argument('--out', metavar='DIR', required=True, help='output folder')
    parser.add_argument('--force', action='store_true', help='replace published files')
    args = parser.parse_args()

    from mmkdml.apis import load_config, publish

    config, checkpoint = publish(
        load_config(args.config, args.cfg_options), args.checkpoint, args.out, args.force
    )
    print(f'Published. To test it:\npython tools/test.py {config} {checkpoint}')


if __name__ == '__main__':
    run_tool(main)
