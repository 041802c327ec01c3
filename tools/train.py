"""Train a classroom or a baseline: python tools/train.py configs/kdml/r50_r18x2_v3_lgg.py"""

from mmkdml.apis import config_parser, run_tool


def main() -> None:
    parser = config_parser('Train a classroom or a baseline.', launcher=True)
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='folder for logs and checkpoints (default: work_dirs/<folder>/<config>)',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from CHECKPOINT, or from the latest valid one in the work dir',
    )
    parser.add_argument(
        '--accept-changes',
        action='store_true',
        help='resume even if settings or data have changed, with the new ones',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='start a new run in a work dir with checkpoints, and delete these',
    )
    parser.add_argument(
        '--amp', action='store_true', help='use automatic mixed precision, on GPU or CPU'
    )
    parser.add_argument(
        '--fast',
        action='store_true',
        help='enable every speed-up that pays on this device (implies --amp)',
    )
    parser.add_argument(
        '--quiet', action='store_true', help='print validations only if they are the best so far'
    )
    parser.add_argument('--seed', type=int, help='random seed')
    parser.add_argument(
        '--deterministic',
        action='store_true',
        help='bitwise reproducible training on a GPU (slower)',
    )
    parser.add_argument(
        '--cache-images',
        nargs='?',
        const='work_dirs/image_cache',
        metavar='DIR',
        help='cache decoded images in DIR, for later epochs and runs (default DIR: %(const)s)',
    )
    parser.add_argument(
        '--profile',
        nargs='?',
        const=10,
        type=int,
        metavar='N',
        help='profile N iterations (default N: %(const)s), write a trace, and continue training',
    )
    args = parser.parse_args()
    if args.overwrite and args.resume is not None:
        parser.error('--overwrite starts a new run, --resume continues one: use only one of them')
    if args.accept_changes and args.resume is None:
        parser.error('--accept-changes requires --resume')

    from mmkdml.apis import load_config, make_runner, use_amp, use_deterministic, use_fast
    from mmkdml.apis.runs import use_image_cache

    config = load_config(args.config, args.cfg_options, args.work_dir)
    if args.seed is not None:
        config.randomness = dict(config.get('randomness', {}), seed=args.seed)
    if args.deterministic:
        use_deterministic(config)
    if args.amp:
        use_amp(config)
    if args.fast:
        use_fast(config)
    if args.cache_images:
        use_image_cache(config, args.cache_images)
    if args.profile is not None:
        hook = dict(type='mmkdml.ProfileHook', iterations=args.profile)
        config.custom_hooks = [*config.get('custom_hooks', ()), hook]
    if args.resume is not None:
        config.resume = True
        config.load_from = None if args.resume == 'auto' else args.resume
    make_runner(
        config,
        args.launcher,
        overwrite=args.overwrite,
        accept_changes=args.accept_changes,
        verbose=args.verbose,
        validations=not args.quiet,
    ).train()


if __name__ == '__main__':
    run_tool(main)
