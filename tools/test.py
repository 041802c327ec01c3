"""Test a run: python tools/test.py RUN, or CONFIG CHECKPOINT"""

from mmkdml.apis import config_parser, run_tool


def main() -> None:
    parser = config_parser(
        'Evaluate every member and the ensemble on the test part.', launcher=True, checkpoint=True
    )
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='folder for results, logs and pictures (default: the folder of the run)',
    )
    parser.add_argument(
        '--tta',
        action='store_true',
        help='average over augmented views: those of tta_pipeline in the config, or the image and '
        'its flips',
    )
    parser.add_argument('--out', metavar='FILE', help='JSON file for the metrics; NaN becomes null')
    parser.add_argument('--force', action='store_true', help='replace FILE if it exists')
    args = parser.parse_intermixed_args()

    from mmengine.dist import is_main_process

    from mmkdml.apis import load_run, load_weights, make_runner
    from mmkdml.apis.output_folder import refuse_existing
    from mmkdml.apis.tta import augment_model, use_tta
    from mmkdml.files import json_text, write_atomically

    config, checkpoint = load_run(
        args.config,
        args.checkpoint,
        args.cfg_options,
        use_config=args.use_config,
        work_dir=args.work_dir,
    )
    if args.out:
        refuse_existing(args.out, args.force, [config.filename, checkpoint])
    if args.tta:
        use_tta(config)
    runner = make_runner(
        config, args.launcher, train=False, output='log' if args.verbose else 'progress'
    )
    load_weights(runner, checkpoint)
    if args.tta:
        augment_model(runner)
    metrics = runner.test()
    if args.out and is_main_process():
        write_atomically(args.out, f'{json_text(metrics, indent=2)}\n'.encode())


if __name__ == '__main__':
    run_tool(main)
