"""What the command lines of the data set converters share."""

from __future__ import annotations

import argparse
import json
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmkdml.datasets.images import DRAWN_ON
from mmkdml.datasets.splits import SplitRow, split_counts
from mmkdml.datasets.splits.manifest import INFO_FILE

Splits = Mapping[str, Sequence[SplitRow]]


def add_mask_option(parser: argparse.ArgumentParser) -> None:
    """Add the option of converters for masks of images with an EXIF orientation."""
    parser.add_argument(
        '--masks-drawn-on',
        choices=DRAWN_ON,
        help='whether masks were drawn on the pixels stored in the image file or on those that '
        'viewers show; needed if the EXIF orientation turns an image and its size is ambiguous',
    )


def run_converter(
    parser: argparse.ArgumentParser,
    convert: Callable[..., Splits],
    config: str | None = None,
    data_root: str = '',
    splits_dir: str = '',
    argv: Sequence[str] | None = None,
) -> None:
    """What the converters' command lines share: arguments and the closing table.

    Args:
        parser: Has the data set's own arguments.
        convert: Called with every argument by name.
        config: The config to train with next; none for data that no config knows. An argument in
            braces, as ``{task}``, stands for its value, here and in ``splits_dir``.
        data_root: Where that config looks for the images.
        splits_dir: Where it looks for the split files.
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
    given = vars(parser.parse_args(argv))
    splits = convert(**given)
    out = Path(given['out'])
    print(summary(splits, json.loads((out / INFO_FILE).read_text()).get('classes')))
    if config is None:
        print('\nnext: a config of your own, as in docs/custom_data.md')
        return
    command = f'python tools/train.py {config.format(**given)}'
    if Path(given['source']) != Path(data_root) or out != Path(splits_dir.format(**given)):
        command += _places(given['source'], out, splits)
    print(f'\nnext:\n{command}')


def summary(splits: Splits, classes: Sequence[str] | None = None) -> str:
    """A table with a line per split: images, groups, and positives or samples of each class.

    Args:
        splits: Rows of each split.
        classes: Names of the classes, where the labels stand for more than yes and no. A sample is
            an image as often as an epoch draws it.
    """
    lines = [['split', 'images', 'groups', *(classes or ['positives'])]]
    for name, rows in splits.items():
        counts = split_counts(rows)
        numbers = [counts['images'], counts['groups'], counts['positives']]
        if classes:
            samples: Counter[int] = Counter()
            for row in rows:
                samples[row.label] += row.repeats
            numbers[2:] = [samples[label] for label in range(len(classes))]
        lines.append([name, *map(str, numbers)])
    widths = [max(8, len(title) + 2) for title in lines[0][1:]]
    return '\n'.join(
        f'{name:<6}'
        + ''.join(f'{cell:>{width}}' for cell, width in zip(cells, widths, strict=True))
        for name, *cells in lines
    )


def _places(source: str, out: Path, splits: Splits) -> str:
    """Options that tell a config where the data are."""
    options = ['']
    for split in splits:
        dataset = f'{split}_dataloader.dataset'
        options += [
            f'{dataset}.data_root={shlex.quote(source)}',
            f'{dataset}.ann_file={shlex.quote(str(out / split))}.csv',
        ]
    return ' --cfg-options' + ' \\\n    '.join(options)
