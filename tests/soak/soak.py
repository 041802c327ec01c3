"""Inject random faults into a training run and a suite: python tests/soak/soak.py

Faults: SIGKILL and SIGTERM, a damaged newest checkpoint, killed data loader workers, full disks,
unreadable images and NaN images. After each fault the process must exit in time with an error that
names the cause, which a suite must also record in its database. After a few faults the resumed run
must finish with the weights (bit for bit) or scores of a run without faults.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prettytable import PrettyTable
from rich.console import Console
from rich.progress import Progress
from runs import PROCESSES, ROOT, Attempt, Suite, Training, in_process, make_data

from mmkdml.files import json_text

OTHER_FAULTS = ('worker', 'disk', 'image', 'nan')
SUITE_FAULTS = (*OTHER_FAULTS, 'run')
FAULTS_PER_RUN = 5
DAMAGED = 1  # modification time in ns that marks a damaged file
EXPECTED, LATE = 'as expected', 'too late'


class Soak:
    """Runs with faults, and a record of how each attempt ended.

    Args:
        out: Output folder.
        seed: Seed of faults and times.
        limit: Seconds within which an attempt must end.
        images: Paths of the training images.
        report: Called with a line for each attempt.
    """

    def __init__(
        self, out: Path, seed: int, limit: float, images: list[str], report: Callable[[str], None]
    ) -> None:
        self.out, self.seed, self.limit, self.images, self.report = out, seed, limit, images, report
        self.attempts: list[dict[str, Any]] = []
        self.running: Attempt | None = None

    def run_without_faults(self, target: Training) -> None:
        """Measure the duration and outcome of a run without faults."""
        folder = self.out / target.name / 'without_faults'
        attempt = self.try_once(target, folder, 'none')
        if attempt['exit_code'] != 0:
            sys.exit(f'soak.py: error: run without faults failed: {attempt["verdict"]}')
        target.seconds = attempt['seconds']
        target.reference = target.outcome(folder)

    def run_with_faults(self, target: Training, faults: list[str]) -> None:
        """Inject the next few faults into a new run, let it finish, and compare the outcome.

        Removes the injected faults from the list. Faults that came too late, after the run had
        finished, remain for the next run.
        """
        folder = self.out / target.name / f'run_{len(self.attempts)}'
        attempt = dict(verdict=EXPECTED, exit_code=None)
        for number, fault in enumerate([*faults[:FAULTS_PER_RUN], 'none']):
            attempt = self.try_once(target, folder, fault)
            if attempt['verdict'] == LATE and number == 0:
                target.seconds = attempt['seconds']  # the machine is less busy than before
            if attempt['verdict'] != LATE and fault != 'none':
                faults.pop(0)
            if attempt['exit_code'] == 0 or attempt['verdict'] not in (EXPECTED, LATE):
                break
        if attempt['exit_code'] == 0:
            attempt['equal'] = target.outcome(folder) == target.reference
            if attempt['equal'] and not list(folder.rglob('*.part')):
                shutil.rmtree(folder)
            else:
                attempt['verdict'] = (
                    f'VIOLATION: {folder} has another outcome than the run without faults, or '
                    'partial files'
                )
                self.report(attempt['verdict'])

    def try_once(self, target: Training, folder: Path, fault: str) -> dict[str, Any]:
        """Start or resume a run, inject a fault, and return a record of how the run ended."""
        folder.mkdir(parents=True, exist_ok=True)
        number = len(self.attempts)
        rng = random.Random(f'{self.seed} {number}')
        # Some faults take effect only in the next epoch, so they must come before the last one.
        longest = target.seconds * (0.5 if fault in ('image', 'worker', 'run') else 1)
        moment, start = rng.uniform(0, longest), time.monotonic()
        image = rng.randrange(len(self.images))
        attempt = self.running = Attempt(
            self.out / f'attempt_{number}.log',
            target.command(folder, 2 if fault == 'worker' else rng.choice((0, 2))),
            limit=rng.randrange(2**18, 2**20) if fault == 'disk' else None,
            nan_index=image if fault == 'nan' else None,
            depth=target.depth,
        )
        codes, cause, detail = {1}, '', ''
        content = Path(self.images[image]).read_bytes()
        try:
            if fault == 'kill':
                attempt.wait(moment)
                signalled = rng.choice((signal.SIGKILL, signal.SIGTERM))
                attempt.send(signalled, group=rng.random() < 0.5)
                codes, detail = target.codes[signalled], signalled.name
            elif fault == 'worker':
                attempt.wait(moment)
                attempt.kill(signal.SIGKILL, True, rng, self.limit)
                cause = 'DataLoader worker'
            elif fault == 'run':
                attempt.wait(moment)
                signalled = rng.choice((signal.SIGKILL, signal.SIGTERM))
                attempt.kill(signalled, False, rng, self.limit)
                cause = detail = signalled.name
            elif fault == 'disk':
                cause = 'File too large'
            elif fault == 'image':
                attempt.wait(moment)
                Path(self.images[image]).write_bytes(content[: rng.randrange(len(content))])
                cause = self.images[image]
            elif fault == 'nan':
                cause = 'is not finite'
            exit_code = attempt.wait(self.limit)
        finally:
            attempt.send(signal.SIGTERM)  # a suite stops its runs
            attempt.wait(min(self.limit, 30))
            attempt.send(signal.SIGKILL, group=True)
            Path(self.images[image]).write_bytes(content)
        verdict = EXPECTED if fault == 'none' or exit_code != 0 else LATE
        texts = [attempt.output(), *(target.errors(folder) if cause else [])]
        if exit_code is None:
            verdict = f'VIOLATION: still running after {self.limit:.0f} s'
        elif exit_code != 0 and not (
            fault != 'none' and exit_code in codes and all(cause in text for text in texts)
        ):
            last = [text.strip().rpartition('\n')[2] for text in texts]
            verdict = (
                f'VIOLATION: expected exit code {codes} and {cause!r}, got {exit_code} and {last}'
            )
        elif fault == 'nan' and exit_code and self.images[image] not in nan_images(folder):
            verdict = f'VIOLATION: {self.images[image]} is missing in {folder}/non_finite'
        elif fault == 'kill' and exit_code and rng.random() < 0.5:
            detail += damage_newest(folder, rng)
        self.attempts.append(
            dict(
                target=target.name, folder=str(folder), fault=fault, detail=detail,
                exit_code=exit_code, moment=round(moment, 2),
                seconds=round(time.monotonic() - start, 2),
                verdict=verdict, log=str(attempt.log), equal=None,
            )
        )  # fmt: skip
        self.report(f'{number:3} {target.name:8} {fault:6} {detail:32} {exit_code!s:>4}  {verdict}')
        return self.attempts[-1]


def damage_newest(folder: Path, rng: random.Random) -> str:
    """Truncate the newest checkpoint or flip a bit of it, and return a description.

    Return an empty string if no other intact checkpoint exists to resume from.
    """
    found = [
        path
        for name in ('epoch_*.pth', 'interrupted.pth')
        for path in folder.rglob(name)
        if path.stat().st_mtime_ns != DAMAGED
    ]
    path = max(found, key=lambda one: one.stat().st_mtime_ns, default=None)
    if path is None or [one.parent for one in found].count(path.parent) < 2:
        return ''
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    if truncated := rng.random() < 0.5:
        del content[place:]
    else:
        content[place] ^= 1 << rng.randrange(8)
    path.write_bytes(content)
    os.utime(path, ns=(DAMAGED, DAMAGED))
    return f', {path.name} {"truncated" if truncated else "one bit flipped"}'


def nan_images(folder: Path) -> set[str]:
    """Return the images that a run reported as NaN or infinite."""
    return {
        sample['img_path']
        for path in folder.rglob('non_finite/*.json')
        for batch in json.loads(path.read_text())['batches']
        for sample in batch['samples']
        if not sample['finite']
    }


def summary(attempts: list[dict[str, Any]]) -> str:
    columns = ['target', 'fault', 'attempts', EXPECTED, LATE, 'violations', 'finished', 'equal']
    table = PrettyTable(columns, align='r')
    for target, fault in dict.fromkeys((one['target'], one['fault']) for one in attempts):
        rows = [one for one in attempts if (one['target'], one['fault']) == (target, fault)]
        verdicts = [one['verdict'] for one in rows]
        ends = [one['equal'] for one in rows if one['equal'] is not None]
        count = verdicts.count(EXPECTED), verdicts.count(LATE)
        bad = len(rows) - sum(count)
        table.add_row([target, fault, len(rows), *count, bad, len(ends), sum(ends)])
    return str(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(':')[0] + '.')
    for name, default, text in (
        ('--kills', 30, 'signals to training and suite'),
        ('--suite-kills', 6, 'number of these signals that are sent to the suite'),
        ('--others', 2, 'faults of each other kind in the training'),
        ('--suite-others', 1, 'faults of each other kind in the suite'),
        ('--epochs', 4, 'epochs of the training'),
        ('--seed', 0, 'seed of faults and times'),
        ('--limit', 300.0, 'seconds within which an attempt must end'),
    ):
        parser.add_argument(
            name, type=type(default), default=default, help=f'{text} (default: %(default)s)'
        )
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('work_dirs/soak'),
        help='output folder, emptied at the start (default: %(default)s)',
    )
    args = parser.parse_args()
    out = args.out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.chdir(ROOT)
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Importing these in each process would take longer than the training.
    PROCESSES.set_forkserver_preload(['mmkdml.apis', 'mmkdml.datasets', 'mmkdml.experiments'])
    options, images = in_process(make_data, out / 'data')
    plan = {
        Training(out, options, args.epochs): ['kill'] * (args.kills - args.suite_kills)
        + [*OTHER_FAULTS] * args.others,
        Suite(out, options, epochs=3): ['kill'] * args.suite_kills
        + [*SUITE_FAULTS] * args.suite_others,
    }
    total = sum(map(len, plan.values()))
    with Progress(console=Console(stderr=True)) as progress, (out / 'soak.log').open('w') as log:
        bar = progress.add_task('Faults', total=total)

        def report(line: str) -> None:
            print(line, file=log, flush=True)
            progress.console.print(line, highlight=False, markup=False, soft_wrap=True)

        soak = Soak(out, args.seed, args.limit, images, report)
        try:
            for target, faults in plan.items():
                random.Random(args.seed).shuffle(faults)
                if faults:
                    soak.run_without_faults(target)
                while faults:
                    soak.run_with_faults(target, faults)
                    progress.update(bar, completed=total - sum(map(len, plan.values())))
        finally:
            if soak.running is not None:
                soak.running.send(signal.SIGKILL, group=True)
            table = summary(soak.attempts)
            (out / 'summary.txt').write_text(table + '\n')
            record = dict(seed=args.seed, attempts=soak.attempts)
            (out / 'summary.json').write_text(json_text(record, indent=1) + '\n')
    print(table)
    violations = [one for one in soak.attempts if one['verdict'].startswith('VIOLATION')]
    if violations:
        sys.exit(f'soak.py: error: {len(violations)} violations; see {out}/soak.log')


if __name__ == '__main__':
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
