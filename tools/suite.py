"""Runs a suite's experiments, makes its tables: python tools/suite.py run suites/table_4.py"""

import argparse
import sys
import time
from pathlib import Path

from prettytable import PrettyTable

from mmkdml.apis import newest_checkpoint, run_tool
from mmkdml.apis.output_folder import refuse_existing
from mmkdml.experiments import (
    CHECKPOINTS,
    FORMS,
    SuiteStore,
    build_table,
    evaluate_claims,
    in_words,
    load_suite,
    progress,
    read_suite,
    render,
    render_claims,
    run_suite,
    seed_scores,
    write_report,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(':')[0] + '.')
    commands = parser.add_subparsers(dest='command', required=True)
    run = commands.add_parser('run', help='start a suite, or join in working on it')
    resume = commands.add_parser('resume', help='go on with a suite; failed runs are tried again')
    status = commands.add_parser('status', help='what is done, what is running, what failed')
    table = commands.add_parser('table', help="the suite's table in the paper's form")
    claims = commands.add_parser('claims', help="which of the paper's claims hold in a suite")
    report = commands.add_parser('report', help='one HTML file with everything')
    for command in (run, resume):
        command.add_argument(
            '--workers', type=int, default=1, help='runs at a time on this machine (default 1)'
        )
        command.add_argument(
            '--processes', type=int, default=1, help='processes, or GPUs, of each run (default 1)'
        )
    for command in (table, claims):
        command.add_argument(
            '--checkpoint',
            choices=CHECKPOINTS,
            default='best',
            help='the one that is best on the validation part (default), or the last one',
        )
    table.add_argument(
        '--format',
        choices=(*FORMS, 'seeds'),
        default='text',
        help='seeds: a CSV of every run and both checkpoints (default: text)',
    )
    claims.add_argument(
        '--format', choices=('text', 'markdown'), default='text', help='default: text'
    )
    for command in (run, resume, status, table, claims, report):
        several = dict(nargs='+') if command is report else {}
        command.add_argument('suite', metavar='SUITE', help='suite file (.py, .yaml)', **several)
        command.add_argument('--work-dir', help='folder of the runs (work_dirs/suites/<suite>)')
        command.add_argument(
            '--storage', metavar='URL', help='database to share (suite.db in the work dir)'
        )
        if command in (table, claims, report):
            command.add_argument('--out', type=Path, help='file to write')
            command.add_argument('--force', action='store_true', help='replace that file')
    args = parser.parse_args()
    if getattr(args, 'out', None):
        refuse_existing(args.out, args.force)
    globals()[args.command](args)


def opened(args: argparse.Namespace, path: str, create: bool = False):
    """The suite and its database."""
    suite = load_suite(path, args.work_dir)
    if args.storage:
        return suite, SuiteStore(args.storage)
    return suite, SuiteStore.in_folder(suite.work_dir, create)


def run(args: argparse.Namespace, retry: bool = False) -> None:
    suite, store = opened(args, args.suite, create=not retry)
    try:
        run_suite(suite, store, args.workers, args.processes, retry)
    except KeyboardInterrupt:
        sys.exit(f'stopped; go on with: python tools/suite.py resume {args.suite}')
    states = store.states()
    print(progress(states))
    if any(state.error for state in states):
        sys.exit(f'some runs failed; see them with: python tools/suite.py status {args.suite}')


def resume(args: argparse.Namespace) -> None:
    run(args, retry=True)


def status(args: argparse.Namespace) -> None:
    suite, store = opened(args, args.suite)
    states = store.states()
    rows = PrettyTable(['run', 'seed', 'state', 'time', ''], align='l')
    for state in states:
        seconds, note = state.seconds, state.error.splitlines()[-1] if state.error else ''
        if state.state == 'running':
            newest = newest_checkpoint(suite.work_dir / state.key)
            seconds, note = time.time() - state.started, f'{newest.stem} saved' if newest else ''
        time_taken = '' if seconds is None else in_words(seconds)
        rows.add_row([state.name, state.seed, state.state, time_taken, note])
    print(rows)
    print(progress(states))


def table(args: argparse.Namespace) -> None:
    record = read_suite(*opened(args, args.suite))
    if args.format == 'seeds':
        text = seed_scores(record).to_csv(index=False, float_format='%.4f')
    else:
        text = render(build_table(record, args.checkpoint), args.format)
    hand_over(text, args.out)


def claims(args: argparse.Namespace) -> None:
    record = read_suite(*opened(args, args.suite))
    results = [
        result
        for measure in record.measures
        for result in evaluate_claims(record, measure, args.checkpoint)
    ]
    hand_over(render_claims(results, args.format), args.out)


def hand_over(text: str, path: Path | None) -> None:
    """Prints a text, or writes it to a file."""
    if path is None:
        print(text.rstrip('\n'))
    else:
        path.write_text(text.rstrip('\n') + '\n', encoding='utf-8')


def report(args: argparse.Namespace) -> None:
    records = [read_suite(*opened(args, path)) for path in args.suite]
    out = args.out or load_suite(args.suite[0], args.work_dir).work_dir / 'report.html'
    print(f'Written: {write_report(records, out, args.suite)}')


if __name__ == '__main__':
    run_tool(main)
