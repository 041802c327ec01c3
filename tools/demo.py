"""Demo on synthetic data: generate and convert it, train KD+ML v3, test, draw panels.

The commands are those of the README for LGG, with a smaller config. Each is printed when it runs.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from mmkdml.commands import tool_command
from mmkdml.packages import packaged_name

TOOLS = Path(__file__).resolve().parent
CONFIG = 'configs/demo/kdml_v3_demo.py'


def run(tool: str, *arguments: object, end: str | None = None) -> None:
    """Print and run a tool; exit with its code if it fails.

    Args:
        tool: Its path in this folder, without suffix.
        *arguments: Its arguments.
        end: Print the output only up to this line. Default: print it while the tool runs.
    """
    words = [str(word) for word in arguments]
    command = tool_command(tool)
    print(f'\n$ {command} {shlex.join(words)}', flush=True)
    start = ['-m', *command.split()] if command.startswith('mmkdml') else [TOOLS / f'{tool}.py']
    stdout = None if end is None else subprocess.PIPE
    done = subprocess.run([sys.executable, *start, *words], check=False, stdout=stdout, text=True)
    if end is not None:
        print(done.stdout.partition(end)[0].strip(), flush=True)
    if done.returncode:
        sys.exit(done.returncode)


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

    run('dataset_converters/make_demo_data', source, '--patients', args.patients)
    run('dataset_converters/lgg', source, '--out', splits, end='\nnext:\n')
    run(
        *('train', packaged_name(CONFIG), '--fast', '--quiet', '--work-dir', args.out),
        *('--cfg-options', *options),
    )
    run('test', args.out)
    print(f'\nLook at {args.out / "summary.html"} and {args.out / "panels" / "panels.png"}')


if __name__ == '__main__':
    main()
