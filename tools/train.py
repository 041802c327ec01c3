"""Trains a config: python tools/train.py configs/kdml/r50_r18x2_v3_lgg.py"""

from mmkdml.apis import config_parser, load_config, make_runner, run_tool, use_amp
from mmkdml.apis.runs import IMAGE_CACHE, use_deterministic, use_fast, use_image_cache


def main() -> None:
    parser = config_parser('Train a classroom or a baseline.', launcher=True)
    parser.add_argument(
        '--work-dir', help='folder for logs and checkpoints (work_dirs/<folder>/<config>)'
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='resume from this checkpoint, or from the newest intact one in the work dir',
    )
    parser.add_argument(
        '--accept-changes',
        action='store_true',
        help='resume although settings or data differ; the new ones hold from there',
    )
    parser.add_argument(
        '--overwrite',
        action='store_true',
        help='start a new run in a work dir with checkpoints, which are deleted',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision, on GPU or CPU')
    parser.add_argument(
        '--fast', action='store_true', help='whatever makes steps faster on this device, --amp too'
    )
    parser.add_argument('--seed', type=int, help='seed of all random numbers')
    parser.add_argument(
        '--deterministic', action='store_true', help='equal results of equal runs on a GPU, slower'
    )
    parser.add_argument(
        '--cache-images',
        nargs='?',
        const=IMAGE_CACHE,
        metavar='DIR',
        help=f'keep decoded images there ({IMAGE_CACHE}), so that later epochs and runs read these',
    )
    parser.add_argument(
        '--profile',
        nargs='?',
        const=10,
        type=int,
        metavar='N',
        help='tell where the time of N iterations (10) goes and write their trace; the run goes on',
    )
    args = parser.parse_args()
    if args.overwrite and args.resume is not None:
        parser.error('--overwrite starts a new run and --resume continues one: give one of them')
    if args.accept_changes and args.resume is None:
        parser.error('--accept-changes needs --resume')
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
        config, args.launcher, overwrite=args.overwrite, accept_changes=args.accept_changes
    ).train()


if __name__ == '__main__':
    run_tool(main)
