"""Publish a trained ensemble: python tools/publish.py RUN --out DIR"""

from mmkdml.apis import config_parser, run_tool


def main() -> None:
    parser = config_parser(
        'Write a checkpoint of the students only, and a config to test it with.', checkpoint=True
    )
    parser.add_argument('--out', metavar='DIR', required=True, help='output folder')
    parser.add_argument('--force', action='store_true', help='replace published files')
    args = parser.parse_intermixed_args()

    from mmkdml.apis import load_run, publish
    from mmkdml.commands import tool_command

    run = load_run(args.config, args.checkpoint, args.cfg_options, use_config=args.use_config)
    config, checkpoint = publish(*run, args.out, args.force)
    print(f'Published. To test it:\n{tool_command("test")} {config} {checkpoint}')


if __name__ == '__main__':
    run_tool(main)
