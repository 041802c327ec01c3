"""Tests a checkpoint: python tools/test.py CONFIG CHECKPOINT"""

from pathlib import Path

from mmengine.dist import is_main_process

from mmkdml.apis import config_parser, load_config, load_weights, make_runner, run_tool
from mmkdml.files import json_text


def main() -> None:
    parser = config_parser(
        'Evaluate every member and the ensemble on the test part.', launcher=True
    )
    parser.add_argument(
        'checkpoint',
        metavar='CHECKPOINT',
        help='checkpoint file, or the folder of a run for its best checkpoint',
    )
    parser.add_argument('--work-dir', help='folder for logs and pictures')
    parser.add_argument(
        '--out', help='JSON file for the metrics; null where one is undefined (NaN)'
    )
    args = parser.parse_args()
    config = load_config(args.config, args.cfg_options, args.work_dir)
    runner = make_runner(config, args.launcher, train=False)
    load_weights(runner, args.checkpoint)
    metrics = runner.test()
    if args.out and is_main_process():
        Path(args.out).write_text(json_text(metrics, indent=2) + '\n')


if __name__ == '__main__':
    run_tool(main)
