"""Searches the weights of a classroom: python tools/tune.py configs/kdml/r50_r18x2_v3_lgg.py"""

import sys

from mmkdml.apis import config_parser, run_tool
from mmkdml.experiments.tuning.tuner import PRUNERS, SAMPLERS, Tuner


def main() -> None:
    parser = config_parser(
        'Search alpha, beta and gamma of both students by the validation part. The same command '
        'goes on after a stop; started several times, it shares the work.'
    )
    parser.add_argument(
        '--sampler',
        choices=SAMPLERS,
        default=SAMPLERS[0],
        help="the paper's grid (default), or the whole simplex by Optuna's TPE",
    )
    parser.add_argument(
        '--trials', type=int, help='how many in all (the whole grid, or 50 with tpe)'
    )
    parser.add_argument('--tied', action='store_true', help='the same weights for both students')
    parser.add_argument(
        '--grid-step',
        type=float,
        metavar='STEP',
        help="all multiples of STEP, e.g. 0.05, in place of the paper's grid",
    )
    for name, what in (('lr', 'learning rate'), ('temperature', 'temperature')):
        parser.add_argument(
            f'--{name}',
            type=float,
            nargs=2,
            metavar=('LO', 'HI'),
            help=f'search the {what}, too; needs tpe',
        )
    parser.add_argument('--epochs', type=int, help="epochs of a trial (the config's)")
    parser.add_argument('--amp', action='store_true', help='mixed precision, on GPU or CPU')
    parser.add_argument(
        '--pruner',
        choices=PRUNERS,
        default=PRUNERS[0],
        help='stop trials that fall behind the median of the others (default), or none',
    )
    parser.add_argument('--seed', type=int, help='seed of tpe; no two workers may share one')
    parser.add_argument('--out', help='folder of everything (work_dirs/tune/<study>)')
    parser.add_argument(
        '--storage', metavar='URL', help='database to share (sqlite, tune.db in the folder)'
    )
    parser.add_argument('--study-name', help='name in the database (<folder>_<config>)')
    parser.add_argument(
        '--keep-checkpoints', action='store_true', help="of all trials, not of the best one's only"
    )
    args = vars(parser.parse_args())
    try:
        files = Tuner(options=args.pop('cfg_options'), **args).search()
    except KeyboardInterrupt:
        sys.exit('stopped; the same command goes on')
    print('\n'.join(f'Written: {file}' for file in files))


if __name__ == '__main__':
    run_tool(main)
