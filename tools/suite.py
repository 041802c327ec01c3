"""Run a suite of experiments and report it: python tools/suite.py run suites/table_4.py"""

import argparse
import gc
import shlex
import sys
from pathlib import Path

from mmkdml.apis import run_tool
from mmkdml.commands import tool_command


def main() -> None:
    parser = argparse.ArgumentParser(description='Run a suite of experiments and report it.')
    commands = parser.add_subparsers(metavar='COMMAND', required=True)
    work = argparse.ArgumentParser(add_help=False)
    work.add_argument(
        '--workers',
        type=int,
        default=1,
        help='number of concurrent runs on this machine (default: %(default)s)',
    )
    work.add_argument(
        '--processes',
        type=int,
        default=1,
        help='number of processes, or GPUs, per run (default: %(default)s)',
    )
    work.add_argument(
        '--engine',
        choices=('local', 'ray'),
        default='local',
        help='execute the runs in local workers, or as tasks of Ray on all machines of its cluster '
        '(default: %(default)s)',
    )
    for_ray = work.add_argument_group('options of --engine ray')
    for_ray.add_argument(
        '--address',
        help='address of the cluster; auto: that of this machine (default: RAY_ADDRESS, the '
        'cluster of this machine, or a new one)',
    )
    for_ray.add_argument(
        '--cpus', type=float, metavar='N', help='CPU cores per run (default: one per process)'
    )
    for_ray.add_argument(
        '--gpus',
        type=float,
        metavar='N',
        help='GPUs per run, e.g. 0.5 (default: one per process if the cluster has GPUs)',
    )
    for_ray.add_argument(
        '--wait-for-nodes',
        action='store_true',
        help='if no machine has the resources of a run, wait for one, such as from an autoscaler '
        '(default: an error)',
    )
    work.add_argument(
        '--max-failures',
        type=int,
        default=3,
        metavar='N',
        help='failures in a row that stop a worker and release these runs for others; 0: no limit '
        '(default: %(default)s)',
    )
    files = argparse.ArgumentParser(add_help=False)
    files.add_argument('--out', type=Path, metavar='FILE', help='output file')
    files.add_argument('--force', action='store_true', help='replace FILE if it exists')
    checkpoints = argparse.ArgumentParser(add_help=False)
    checkpoints.add_argument(
        '--checkpoint',
        choices=('best', 'last'),
        default='best',
        help='checkpoint to report: the best one on the validation part, or the last one '
        '(default: %(default)s)',
    )

    def add(function, text, *parents, nargs=None):
        command = commands.add_parser(
            function.__name__,
            help=text,
            description=f'{text[0].upper()}{text[1:]}.',
            parents=parents,
        )
        command.set_defaults(function=function)
        command.add_argument(
            'suite', metavar='SUITE', nargs=nargs, help='suite file (.py, .yaml, .json)'
        )
        command.add_argument(
            '--work-dir',
            metavar='DIR',
            help='folder of the runs (default: work_dirs/suites/<suite>)',
        )
        command.add_argument(
            '--storage', metavar='URL', help='URL of a shared database (default: suite.db in DIR)'
        )
        return command

    add(run, 'start a suite, or join its other workers', work)
    add(resume, 'continue a suite and retry failed runs', work)
    add(status, 'list the runs with their state')
    add(
        table, 'print the table of a suite in the form of the paper', checkpoints, files
    ).add_argument(
        '--format',
        choices=('text', 'markdown', 'latex', 'csv', 'seeds', 'folds'),
        default='text',
        help='seeds: a CSV of all runs and both checkpoints; folds: the same for each fold of a '
        'cross-validation (default: %(default)s)',
    )
    add(claims, 'test the claims of the paper and of a suite', checkpoints, files).add_argument(
        '--format', choices=('text', 'markdown'), default='text', help='default: %(default)s'
    )
    add(report, 'write an HTML report of one or more suites', files, nargs='+')
    command = add(
        power,
        'print the differences that a suite can detect, before or after it is run',
        checkpoints,
    )
    numbers = dict(type=int, nargs='+', metavar='N')
    command.add_argument('--seeds', **numbers, help="numbers of seeds (default: the suite's)")
    command.add_argument(
        '--groups', **numbers, help='numbers of groups of test cases, e.g. patients of all folds '
        '(default: as tested)'
    )  # fmt: skip
    command.add_argument(
        '--claims', type=int, metavar='N',
        help="number of claims that are corrected together (default: the suite's primary claims, "
        'or 1)',
    )  # fmt: skip
    command.add_argument('--measure', help='measure of finished runs (default: the first one)')
    command.add_argument(
        '--power', type=float, default=0.8, help='probability of detection (default: %(default)s)'
    )
    command.add_argument(
        '--seed-sd', type=float, metavar='POINTS',
        help='standard deviation of a run over seeds (default: that of the finished runs)',
    )  # fmt: skip
    command.add_argument(
        '--case-sd', type=float, metavar='POINTS',
        help='standard deviation of the difference of two runs over groups (default: that of the '
        'finished runs)',
    )  # fmt: skip
    args = parser.parse_args()
    if 'engine' in args and (option := option_of_other_engine(args)):
        other = 'local' if args.engine == 'ray' else 'ray'
        parser.error(
            f'argument {option}: expected --engine {other}, got --engine {args.engine}. Remove one '
            'of these options'
        )
    if getattr(args, 'out', None):
        from mmkdml.apis.output_folder import refuse_existing

        refuse_existing(args.out, args.force)
    if args.function not in (run, resume):
        # Records are kept until the end, and a full collection visits those of thousands of runs.
        gc.set_threshold(100_000, 20, 100)
    args.function(args)


def open_suite(args: argparse.Namespace, path: str, create: bool = False, retry_seconds: float = 0):
    """Load a suite and open its database."""
    from mmkdml.experiments import SuiteStore, load_suite

    suite = load_suite(path, args.work_dir)
    if args.storage:
        store = SuiteStore(args.storage, retry_seconds=retry_seconds)
    else:
        store = SuiteStore.in_folder(suite.work_dir, create, retry_seconds)
    store.check_suite(suite.name, suite.runs)
    return suite, store


def words(args: argparse.Namespace, path: str) -> str:
    """Return the arguments with which another command finds the suite."""
    folder = ['--work-dir', args.work_dir] if args.work_dir else []
    # The URL may contain a password.
    return shlex.join([str(path), *folder]) + (' --storage URL' if args.storage else '')


def option_of_other_engine(args: argparse.Namespace) -> str | None:
    """Return an option that would have no effect, because it belongs to the other engine."""
    of_local = {'workers': 1, 'max_failures': 3}
    of_ray = {'address': None, 'cpus': None, 'gpus': None, 'wait_for_nodes': False}
    others = of_local if args.engine == 'ray' else of_ray
    changed = [name for name, default in others.items() if getattr(args, name) != default]
    return f'--{changed[0].replace("_", "-")}' if changed else None


def run(args: argparse.Namespace, retry: bool = False) -> None:
    from mmkdml.experiments import progress, run_on_ray, run_suite
    from mmkdml.experiments.database import RETRY_SECONDS

    suite, store = open_suite(args, args.suite, not retry, RETRY_SECONDS)
    try:
        if args.engine == 'ray':
            resources = args.processes, args.cpus, args.gpus
            run_on_ray(suite, store, args.address, *resources, retry, args.wait_for_nodes)
        else:
            run_suite(suite, store, args.workers, args.processes, retry, args.max_failures)
    except KeyboardInterrupt:
        engine = '' if args.engine == 'local' else f' --engine {args.engine}'
        command = f'{tool_command("suite")} resume {words(args, args.suite)}{engine}'
        sys.exit(f'stopped; continue with: {command}')
    states = store.states()
    print(progress(states))
    if any(state.error for state in states):
        sys.exit(
            'some runs failed; list them with: '
            f'{tool_command("suite")} status {words(args, args.suite)}'
        )


def resume(args: argparse.Namespace) -> None:
    run(args, retry=True)


def status(args: argparse.Namespace) -> None:
    from mmkdml.experiments import progress
    from mmkdml.experiments.suites.execution.progress import state_table

    suite, store = open_suite(args, args.suite)
    states = store.states()
    print(state_table(states, suite.work_dir))
    print(progress(states))


def table(args: argparse.Namespace) -> None:
    from mmkdml.experiments import build_table, read_suite, render, seed_scores

    record = read_suite(*open_suite(args, args.suite), pool=args.format != 'folds')
    if args.format in ('seeds', 'folds'):
        text = seed_scores(record).to_csv(index=False, float_format='%.4f')
    else:
        table = build_table(record, args.checkpoint, intervals=args.format == 'csv')
        text = render(table, args.format)
    write(text, args.out)


def claims(args: argparse.Namespace) -> None:
    from mmkdml.experiments import evaluate_claims, read_suite, render_claims
    from mmkdml.statistics.counts import count_cases

    record = read_suite(*open_suite(args, args.suite))
    counts = count_cases(record, args.checkpoint)
    results = [
        result
        for measure in record.measures
        for result in evaluate_claims(record, measure, args.checkpoint, counts=counts)
    ]
    write(render_claims(results, args.format), args.out)


def power(args: argparse.Namespace) -> None:
    from mmkdml.experiments import load_suite, read_suite
    from mmkdml.experiments.suites.planning import detectable_differences
    from mmkdml.statistics.counts import count_cases

    suite = load_suite(args.suite, args.work_dir)
    counts = None
    if None in (args.seed_sd, args.case_sd, args.groups):
        try:
            store = open_suite(args, args.suite)[1]
        except FileNotFoundError as error:
            hint = 'Before it is run, state --groups, --seed-sd and --case-sd'
            raise FileNotFoundError(f'{error}. {hint}') from error
        counts = count_cases(read_suite(suite, store), args.checkpoint)
    names = ('measure', 'power', 'groups', 'seeds', 'claims', 'seed_sd', 'case_sd')
    options = {name: getattr(args, name) for name in names}
    print(detectable_differences(suite, counts, **options))


def write(text: str, path: Path | None) -> None:
    """Write a text to a file, or to stdout if there is none."""
    if path is None:
        print(text.rstrip('\n'))
    else:
        path.write_text(text.rstrip('\n') + '\n', encoding='utf-8')


def report(args: argparse.Namespace) -> None:
    from mmkdml.experiments import load_suite, read_suite, write_report

    records = [read_suite(*open_suite(args, path)) for path in args.suite]
    out = args.out or load_suite(args.suite[0], args.work_dir).work_dir / 'report.html'
    files = [words(args, path) for path in args.suite]
    print(f'Written: {write_report(records, out, files)}')


if __name__ == '__main__':
    run_tool(main)
