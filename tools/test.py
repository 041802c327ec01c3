"""Test a checkpoint: python tools/test.py CONFIG CHECKPOINT"""

from mmkdml.apis import config_parser, run_tool


def main() -> None:
    parser = config_parser(
        'Evaluate every member and the ensemble on the test part.', launcher=True
    )
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='checkpoint file, or folder of a run for its best checkpoint',
    )
    parser.add_argument('--work-dir', metavar='DIR', help='folder for logs and pictures')
    parser.add_argument('--out', metavar='FILE', help='JSON file for the metrics; NaN becomes null')
    parser.add_argument('--force', action='store_true', help='replace FILE if it exists')
    args = parser.parse_args()

    from mmengine.dist import is_main_process

    from mmkdml.apis import load_config, load_weights, make_runner
    from mmkdml.apis.output_folder import refuse_existing
    from mmkdml.files import json_text, write_atomically

    if args.out:
        refuse_existing(args.out, args.force, [args.config, args.checkpoint])
    config = load_config(args.config, args.cfg_options, args.work_dir)
    runner = make_runner(config, args.launcher, train=False)
    load_weights(runner, args.checkpoint)
    metrics = runner.test()
    if args.out and is_main_process():
        write_atomically(args.out, f'{json_text(metrics, indent=2)}\n'.encode())


if __name__ == '__main__':
    run_tool(main)
