"""What the command lines of the data set converters share."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmkdml.datasets.splits import SplitRow, split_counts

Splits = Mapping[str, Sequence[SplitRow]]


def run_converter(
    parser: argparse.ArgumentParser,
    convert: Callable[..., Splits],
    config: str,
    data_root: str,
    argv: Sequence[str] | None = None,
) -> None:
    """What the converters' command lines share: arguments and the closing table.

    Args:
        parser: Has the data set's own arguments.
        convert: Called with every argument by name.
        config: The config to train with next.
        data_root: Where that config looks for the images; it looks for splits in ``splits`` beside.
        argv: Arguments; those of the process by default.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If the source cannot be used.
    """
    parser.add_argument('source', metavar='SOURCE', help='folder of the published data set')
    parser.add_argument('--out', metavar='DIR', required=True, help='folder for the split files')
    parser.add_argument(
        '--ratios',
        nargs=3,
        type=float,
        default=[75, 10, 15],
        metavar=('TRAIN', 'VAL', 'TEST'),
        help='shares of images (default 75 10 15)',
    )
    parser.add_argument('--seed', type=int, default=0, help='same seed, same files (default 0)')
    parser.add_argument('--force', action='store_true', help='replace other splits in DIR')
    args = parser.parse_args(argv)
    splits = convert(**vars(args))
    print(summary(splits))
    print('\nnext:\n' + _train_command(config, data_root, args.source, args.out, splits))


def summary(splits: Splits) -> str:
    """A table with a line per split: images, groups, positives."""
    lines = [f'{"split":<6}{"images":>8}{"groups":>8}{"positives":>11}']
    for name, rows in splits.items():
        counts = split_counts(rows)
        lines.append(
            f'{name:<6}{counts["images"]:>8}{counts["groups"]:>8}{counts["positives"]:>11}'
        )
    return '\n'.join(lines)


def _train_command(config: str, data_root: str, source: str, out: str, splits: Splits) -> str:
    command = f'python tools/train.py {config}'
    if (Path(source), Path(out)) == (Path(data_root), Path(data_root).parent / 'splits'):
        return command
    options = []
    for split in splits:
        dataset = f'{split}_dataloader.dataset'
        options += [
            f'{dataset}.data_root={shlex.quote(source)}',
            f'{dataset}.ann_file={shlex.quote(str(Path(out) / split))}.csv',
        ]
    return ' \\\n    '.join([f'{command} --cfg-options', *options])
