"""Tune the loss weights of a classroom: python tools/tune.py configs/kdml/r50_r18x2_v3_lgg.py"""

import sys

from mmkdml.apis import config_parser, run_tool


def main() -> None:
    parser = config_parser(
        'Tune alpha, beta and gamma of both students on the validation part. Rerun the same '
        'command to continue; run it several times at once to share the trials.'
    )
    parser.add_argument(
        '--sampler',
        choices=('grid', 'tpe'),
        default='grid',
        help="the grid of the paper, or Optuna's TPE on the simplex (default: %(default)s)",
    )
    parser.add_argument(
        '--trials', type=int, help='total number of trials (default: the grid, or 50 with tpe)'
    )
    parser.add_argument('--tied', action='store_true', help='use equal weights for both students')
    parser.add_argument(
        '--grid-step',
        type=float,
        metavar='STEP',
        help='use a grid of all multiples of STEP, e.g. 0.05, instead of that of the paper',
    )
    for name, what in (('lr', 'learning rate'), ('temperature', 'temperature')):
        parser.add_argument(
            f'--{name}',
            type=float,
            nargs=2,
            metavar=('LO', 'HI'),
            help=f'also tune the {what}; requires --sampler tpe',
        )
    parser.add_argument('--epochs', type=int, help='epochs of a trial (default: as in CONFIG)')
    parser.add_argument(
        '--amp', action='store_true', help='use automatic mixed precision, on GPU or CPU'
    )
    parser.add_argument(
        '--pruner',
        choices=('median', 'none'),
        default='median',
        help='stop trials that are worse than the median of the others (default: %(default)s)',
    )
    parser.add_argument(
        '--seed', type=int, help='seed of tpe; must differ between concurrent workers'
    )
    parser.add_argument(
        '--out', metavar='DIR', help='output folder (default: work_dirs/tune/<study>)'
    )
    parser.add_argument(
        '--storage', metavar='URL', help='URL of a shared database (default: tune.db in DIR)'
    )
    parser.add_argument(
        '--study-name', metavar='NAME', help='name in the database (default: <folder>_<config>)'
    )
    parser.add_argument(
        '--keep-checkpoints',
        action='store_true',
        help='keep the checkpoints of all trials, not only of the best one',
    )
    parser.add_argument('--verbose', action='store_true', help='print the logs of the trials')
    args = vars(parser.parse_args())

    from mmkdml.experiments.tuning.tuner import Tuner

    try:
        files = Tuner(options=args.pop('cfg_options'), **args).search()
    except KeyboardInterrupt:
        sys.exit('stopped; rerun the same command to continue')
    print('\n'.join(f'Written: {file}' for file in files))


if __name__ == '__main__':
    run_tool(main)
