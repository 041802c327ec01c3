"""Arguments and output shared by ``tools/dataset_converters``."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmkdml.datasets.splits import SplitRow

    Splits = Mapping[str, Sequence[SplitRow]]

from mmkdml.commands import tool_command
from mmkdml.packages import packaged_name


def add_group_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--group-regex``."""
    parser.add_argument(
        '--group-regex',
        metavar='REGEX',
        help='regular expression for the group of an image (e.g. a patient) in its path below '
        'SOURCE: the part (?P<group>...), or the first one in parentheses. A group stays in one '
        'split',
    )


def add_box_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--group-regex`` and the options for invalid boxes."""
    add_group_option(parser)
    parser.add_argument(
        '--clip',
        action='store_true',
        help='clip boxes that leave their image; default: they are an error',
    )
    parser.add_argument(
        '--drop',
        nargs='+',
        default=(),
        choices=['empty', 'duplicates'],
        metavar='KIND',
        help='drop boxes without width or height (empty), or repeated in an image (duplicates); '
        'default: they are an error',
    )


def add_mask_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--masks-drawn-on``, for images with an EXIF orientation."""
    parser.add_argument(
        '--masks-drawn-on',
        choices=('stored', 'shown'),
        help='masks match the pixels as stored in the image file, or as shown by viewers; needed '
        'only if an EXIF orientation rotates an image and its size does not decide',
    )


def run_converter(
    parser: argparse.ArgumentParser,
    convert: Callable[..., Splits],
    config: str | None = None,
    data_root: str = '',
    splits_dir: str = '',
    argv: Sequence[str] | None = None,
    page: str = 'Custom data',
) -> None:
    """Parse the arguments of a converter, run it, and print its splits and the next command.

    Args:
        parser: Parser with the arguments specific to the data set.
        convert: Function that is called with all arguments by name.
        config: Config to train with next; None if no config uses the data. Here and in
            ``splits_dir`` an argument in braces, such as ``{task}``, is replaced by its value.
        data_root: Folder of the images in that config.
        splits_dir: Folder of the split files in that config.
        argv: Command line. Default: that of the process.
        page: Page of the documentation to print if ``config`` is None.

    Raises:
        OSError: If reading or writing a file fails.
        ValueError: If the source is invalid.
    """
    parser.add_argument('source', metavar='SOURCE', help='folder of the published data set')
    parser.add_argument(
        '--out', metavar='DIR', required=True, help='output folder for the split files'
    )
    parser.add_argument(
        '--ratios',
        nargs=3,
        type=float,
        default=[75, 10, 15],
        metavar=('TRAIN', 'VAL', 'TEST'),
        help='proportions of images (default: 75 10 15)',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='seed of the random split (default: %(default)s)'
    )
    parameters = signature(convert).parameters
    if 'folds' in parameters or any(one.kind is one.VAR_KEYWORD for one in parameters.values()):
        parser.add_argument(
            '--folds',
            type=int,
            metavar='K',
            help='write the splits of a K-fold cross-validation, in which each image is tested '
            'once; TRAIN and VAL are then the proportions of the other images (default: a single '
            'split)',
        )
    parser.add_argument('--force', action='store_true', help='replace different splits in DIR')
    arguments = vars(parser.parse_args(argv))
    if arguments.get('folds') is None:
        arguments.pop('folds', None)  # custom converters may not have it
    from mmkdml.datasets.splits.manifest import INFO_FILE
    from mmkdml.datasets.splits.split_checks import links_outside

    with print_warnings():
        splits = convert(**arguments)
        outside = list(links_outside(chain(*splits.values()), arguments['source']))
        if outside:
            _, path, real = outside[0]
            warnings.warn(
                f'{len(outside)} files are outside of {arguments["source"]} because of links, such '
                f'as {path} in {os.path.dirname(real)}: the data sets need allow_outside=True',
                stacklevel=2,
            )
    out = Path(arguments['out'])
    info = json.loads((out / INFO_FILE).read_text())
    print(summary(splits, info.get('classes'), info.get('boxes'), info.get('mask_counts')))
    if config is None:
        print(f'\nnext: write a config for your data, see "{page}" in the documentation')
        return
    command = f'{tool_command("train")} {packaged_name(config.format(**arguments))}'
    if 'folds' in arguments:
        command += ' --fold 0'
    names = dict.fromkeys(name.rpartition('/')[2] for name in splits)
    moved = Path(arguments['source']) != Path(data_root)
    if moved or outside or out != Path(splits_dir.format(**arguments)):
        command += _path_options(arguments['source'], out, names, bool(outside))
    print(f'\nnext:\n{command}')


def summary(
    splits: Splits,
    classes: Sequence[str] | None = None,
    boxes: Mapping[str, Mapping[str, int]] | None = None,
    masks: Mapping[str, Mapping[str, Mapping[str, int]]] | None = None,
) -> str:
    """Format the number of images, groups, and positives, samples or boxes per class of each split.

    Args:
        splits: Rows of each split.
        classes: Names of the classes; None for binary labels, or to name them by index. Repeats of
            an image count as samples of each of its classes. If there are any, a column has their
            sum.
        boxes: Number of boxes of each class in each split, for images with boxes.
        masks: Numbers of images with each class and of its pixels in each split, for masks of
            several classes. A column shows the images and the share of the pixels.
    """
    from prettytable import PrettyTable

    from mmkdml.datasets.splits import split_counts

    labels = [row.label for rows in splits.values() for row in rows]
    several = any(row.labels is not None for rows in splits.values() for row in rows)
    has_masks = any(row.mask is not None for rows in splits.values() for row in rows)
    if has_masks and not (boxes or masks):
        classes = None  # those of the pixels; the label states whether there is any foreground
    if not classes and max(labels, default=0) > 1:
        classes = list(map(str, range(max(labels) + 1)))
    repeated = any(row.repeats > 1 for rows in splits.values() for row in rows)
    titles = ['split', 'images', 'groups', *(classes or ['positives'])]
    if boxes:
        titles.insert(3, 'boxes')
    elif classes and repeated and not masks:
        titles.insert(3, 'samples')
    table = PrettyTable(titles, align='r', border=False, padding_width=0, right_padding_width=2)
    table.align['split'] = 'l'
    for name, rows in splits.items():
        counts = split_counts(rows)
        numbers: list[int | str] = [counts['images'], counts['groups']]
        if boxes:
            numbers += [sum(boxes[name].values()), *boxes[name].values()]
        elif masks:
            total = sum(one['pixels'] for one in masks[name].values())
            numbers += [
                f'{one["images"]} ({100 * one["pixels"] / max(total, 1):.2g} %)'
                for one in masks[name].values()
            ]
        elif classes:
            samples: Counter[int | str] = Counter()
            for row in rows:
                for one in (row.label,) if row.labels is None else row.labels:
                    samples[one] += row.repeats
            numbers += [sum(row.repeats for row in rows)] * repeated
            numbers += [samples[one] for one in (classes if several else range(len(classes)))]
        else:
            numbers.append(counts['positives'])
        table.add_row([name, *numbers])
    note = '\n\nimages with each class (share of its pixels)' if masks else ''
    return table.get_string() + note


@contextmanager
def print_warnings() -> Iterator[None]:
    """Print warnings as one line each on stderr, without the place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always', UserWarning)
        try:
            yield
        finally:
            for message in dict.fromkeys(str(one.message) for one in caught):
                print(f'{Path(sys.argv[0]).name}: warning: {message}', file=sys.stderr)


def _path_options(source: str, out: Path, splits: Iterable[str], outside: bool) -> str:
    """Return the ``--cfg-options`` that set the paths of the data."""
    options = ['']
    for split in splits:
        dataset = f'{split}_dataloader.dataset'
        options += [
            f'{dataset}.data_root={shlex.quote(source)}',
            f'{dataset}.ann_file={shlex.quote(str(out / split))}.csv',
            *[f'{dataset}.allow_outside=True'] * outside,
        ]
    return ' --cfg-options' + ' \\\n    '.join(options)
