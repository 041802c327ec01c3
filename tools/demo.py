"""Demo on synthetic data: generate and convert it, train KD+ML v3, test, draw panels.

The commands are those of the README for LGG, with a smaller config. Each is printed when it runs.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
CONFIG = TOOLS.parent / 'configs' / 'demo' / 'kdml_v3_demo.py'


def run(*command: object) -> None:
    """Print and run a tool; exit with its code if it fails."""
    words = [str(word) for word in command]
    print('\n$ python ' + shlex.join(words), flush=True)
    code = subprocess.run([sys.executable, *words], check=False).returncode
    if code:
        sys.exit(code)


def table(metrics: dict[str, float | None]) -> str:
    """Format IoU and F1 of each member and the ensemble, in percent; ``-`` if undefined."""
    from prettytable import PrettyTable

    rows = PrettyTable(
        ['member', 'IoU', 'F1'], align='r', border=False, padding_width=0, right_padding_width=2
    )
    rows.align['member'] = 'l'
    for name in ('teacher', 'student_1', 'student_2', 'ensemble'):
        values = (metrics[f'{name}/foreground/{metric}'] for metric in ('IoU', 'F1'))
        rows.add_row([name, *('-' if value is None else f'{value:.2f}' for value in values)])
    return rows.get_string()


OUT, DATA = Path('work_dirs/demo'), Path('data/demo')
MARK = '.mmkdml_demo'  # in folders that the next demo may delete


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        default=OUT,
        help='folder of the run (default: %(default)s)',
    )
    parser.add_argument(
        '--data',
        type=Path,
        metavar='DIR',
        default=DATA,
        help='folder of the data (default: %(default)s)',
    )
    parser.add_argument('--epochs', type=int, help='number of epochs (default: as in the config)')
    parser.add_argument(
        '--patients',
        type=int,
        default=24,
        help='number of synthetic patients (default: %(default)s)',
    )
    args = parser.parse_args()
    for folder in (args.out, args.data):
        foreign = folder not in (OUT, DATA) and not (folder / MARK).is_file()
        if foreign and folder.exists() and (folder.is_file() or any(folder.iterdir())):
            parser.error(
                f'{folder} was not created by this demo and would be deleted: choose another folder'
            )
    source, splits = args.data / 'kaggle_3m', args.data / 'splits'
    options = [
        f'{part}_dataloader.dataset.{key}={value}'
        for part in ('train', 'val', 'test')
        for key, value in (('data_root', source), ('ann_file', splits / f'{part}.csv'))
    ]
    if args.epochs is not None:
        options += [f'train_cfg.max_epochs={args.epochs}', f'param_scheduler.T_max={args.epochs}']
    # A better checkpoint of an earlier demo would be tested instead of the new one.
    for folder in (source, splits, args.out):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in (args.out, args.data):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()

    converters = TOOLS / 'dataset_converters'
    run(converters / 'make_demo_data.py', source, '--patients', args.patients)
    run(converters / 'lgg.py', source, '--out', splits)
    run(TOOLS / 'train.py', CONFIG, '--fast', '--work-dir', args.out, '--cfg-options', *options)
    metrics = args.out / 'metrics.json'
    run(
        TOOLS / 'test.py',
        CONFIG,
        args.out,
        '--work-dir',
        args.out,
        '--out',
        metrics,
        '--cfg-options',
        *options,
    )
    print(
        '\nKD+ML v3 on the test part, best checkpoint, percent:\n'
        + table(json.loads(metrics.read_text()))
    )
    print(f'\nPictures (image, truth, each member, ensemble): {args.out / "panels" / "panels.png"}')


if __name__ == '__main__':
    main()
