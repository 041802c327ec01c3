"""Train a classroom or a baseline: python tools/train.py configs/kdml/r50_r18x2_v3_lgg.py"""

import gc
import os

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
        help='resume from CHECKPOINT, or from the latest valid one in the work dir; the options of '
        'the first start are used again',
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
        '--quiet',
        action='store_true',
        help='print progress once a minute, and the best value at the end',
    )
    parser.add_argument('--seed', type=int, help='random seed')
    parser.add_argument(
        '--fold',
        type=int,
        metavar='K',
        help='fold of a cross-validation, from 0, for data converted with --folds; the default '
        'work dir becomes <work_dir>/fold_K',
    )
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
    parser.add_argument(
        '--log',
        nargs='+',
        choices=('tensorboard', 'wandb', 'mlflow'),
        help='also log to these services, by default to files in the folder of the run',
    )
    args = parser.parse_args()
    if args.overwrite and args.resume is not None:
        parser.error('--overwrite starts a new run, --resume continues one: use only one of them')
    if args.accept_changes and args.resume is None:
        parser.error('--accept-changes requires --resume')

    from mmkdml.apis import make_runner
    from mmkdml.apis.run.options import StartOptions, finished_note, training_config
    from mmkdml.apis.run.restarts import is_restarted, job_name

    gc.freeze()  # collections skip the modules, which are never freed
    given = StartOptions(
        args.cfg_options,
        args.seed,
        args.deterministic,
        args.amp,
        args.fast,
        args.cache_images,
        args.log,
        args.fold,
    )
    config, start, before = training_config(args.config, given, args.work_dir, args.resume)
    is_main = int(os.environ.get('RANK', os.environ.get('SLURM_PROCID', 0))) == 0
    if args.resume is None and is_restarted(config.work_dir):
        args.resume, args.overwrite = 'auto', False
        config, start, before = training_config(args.config, given, args.work_dir, 'auto')
        if is_main:
            print(f'{job_name()} was restarted: resuming {config.work_dir}')
    if args.resume is not None and start == before and (note := finished_note(config)):
        if is_main:
            print(note)
        return
    if is_main and before != StartOptions():
        print(f'Resuming with the options of the first start: {before}')
    if args.profile is not None:
        hook = dict(type='mmkdml.ProfileHook', iterations=args.profile)
        config.custom_hooks = [*config.get('custom_hooks', ()), hook]
    make_runner(
        config,
        args.launcher,
        overwrite=args.overwrite,
        accept_changes=args.accept_changes,
        output='log' if args.verbose else 'progress',
        validations=not args.quiet,
        start_options=start.record(),
    ).train()


if __name__ == '__main__':
    run_tool(main)
