"""Split files: CSV tables of the images of a training, validation or test split.

Columns are ``id,path,group,label``, with ``mask`` after ``path`` for segmentation, ``labels`` after
``label`` if images can have several classes (names joined by ``|``, empty for none), and
``repeats`` last if training images are repeated to balance the classes. Paths are POSIX and
relative to the data folder, so that the data can be moved. Images of one group (a patient, a
lesion) look alike; a group belongs to one split unless requested otherwise.
"""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmkdml.commands import tool_command
from mmkdml.datasets.splits.manifest import check_manifest, write_split_files
from mmkdml.datasets.splits.split_checks import image_key, refuse_duplicates, refuse_repeats
from mmkdml.datasets.splits.split_row import SEPARATOR, SplitRow
from mmkdml.names import FOLDS, SPLITS, fold_folder

COLUMNS = ('id', 'path', 'mask', 'group', 'label', 'labels', 'repeats')
OPTIONAL_COLUMNS = ('mask', 'labels', 'repeats')


def write_splits(
    out_dir: str | Path,
    splits: Mapping[str, Sequence[SplitRow]],
    info: Mapping[str, Any],
    force: bool = False,
    files: Mapping[str, bytes] | None = None,
) -> list[Path]:
    """Write ``<split>.csv`` for each split, and the manifest ``splits.json``.

    Equal arguments give equal bytes on every machine. A process that is killed leaves the previous
    files, the new files, or files that :func:`read_split` refuses.

    Args:
        out_dir: Folder to write to; created if missing.
        splits: Rows of each split: all with masks or all without, all with labels or all without,
            repeated only in ``train``. Or the splits of several folds, such as ``fold_0/train``,
            see :func:`write_folds`.
        info: Content of ``splits.json`` in addition to counts and hashes; JSON values.
        force: Replace split files that differ.
        files: Content of further files by name, which belong to the splits, such as their boxes.

    Returns:
        Paths of the split files, of ``files`` and of the manifest.

    Raises:
        ValueError: If a split is unknown or empty, has a duplicate id or image, masks or labels are
            missing for some images, or rows of val or test are repeated.
        FileExistsError: If ``out_dir`` contains other splits and ``force`` is not set.
    """
    folds = by_fold(splits)
    if [*folds] != ['']:
        return write_folds(out_dir, [*folds.values()], info, force, files)
    content = {**_split_contents(splits), **(files or {})}
    return write_split_files(Path(out_dir), content, {**info, 'counts': counts_of(splits)}, force)


def write_folds(
    out_dir: str | Path,
    folds: Sequence[Mapping[str, Sequence[SplitRow]]],
    info: Mapping[str, Any],
    force: bool = False,
    files: Mapping[str, bytes] | None = None,
) -> list[Path]:
    """Write ``fold_<k>/<split>.csv`` for each fold of a cross-validation, and one manifest.

    Args:
        out_dir: Folder to write to; created if missing.
        folds: Rows of each split of each fold, see :func:`~mmkdml.datasets.splits.fold_rows`.
        info: See :func:`write_splits`.
        force: See :func:`write_splits`.
        files: See :func:`write_splits`; all folds share them.

    Returns:
        Paths of the split files, of ``files`` and of the manifest.

    Raises:
        ValueError: If the splits of a fold are invalid (see :func:`write_splits`), or an image is
            not in exactly one test split.
        FileExistsError: If ``out_dir`` contains other splits and ``force`` is not set.
    """
    check_folds(folds)
    content = {
        f'{fold_folder(number)}/{name}': text
        for number, splits in enumerate(folds)
        for name, text in _split_contents(splits).items()
    }
    counts = {fold_folder(number): counts_of(splits) for number, splits in enumerate(folds)}
    info = {**info, FOLDS: len(folds), 'counts': counts}
    return write_split_files(Path(out_dir), {**content, **(files or {})}, info, force)


def check_folds(folds: Sequence[Mapping[str, Sequence[SplitRow]]]) -> None:
    """Raise ValueError unless each image is in the test split of one fold."""
    tested = Counter(row.id for splits in folds for row in splits.get('test', ()))
    images = {row.id for splits in folds for rows in splits.values() for row in rows}
    wrong = sorted(images - set(tested)) + [name for name, times in tested.items() if times > 1]
    if wrong or len(folds) < 2:
        raise ValueError(
            'Invalid folds: expected each image in the test split of one of at least 2 folds, got '
            f'{len(folds)} folds' + (f', {wrong[0]!r} in {tested[wrong[0]]}' if wrong else '')
        )


def by_fold(splits: Mapping[str, Sequence[SplitRow]]) -> dict[str, dict[str, Sequence[SplitRow]]]:
    """Return the splits of each fold by its folder, which is ``''`` without folds."""
    found: dict[str, dict[str, Sequence[SplitRow]]] = {}
    for path, rows in splits.items():
        fold, _, name = path.rpartition('/')
        found.setdefault(fold, {})[name] = rows
    return found or {'': {}}


def _split_contents(splits: Mapping[str, Sequence[SplitRow]]) -> dict[str, bytes]:
    """Check the rows of splits, and return the content of each split file by name."""
    unknown = set(splits) - set(SPLITS)
    if unknown or not splits or not all(splits.values()):
        raise ValueError(
            f'expected rows for some of the splits {list(SPLITS)}, got '
            f'{ {name: len(rows) for name, rows in splits.items()} }'
        )
    check_splits(splits)
    every_row = [row for rows in splits.values() for row in rows]
    for what in ('mask', 'labels'):
        without = [row.id for row in every_row if getattr(row, what) is None]
        if 0 < len(without) < len(every_row):
            raise ValueError(
                f'expected a {what} for all images or for none, but {without[0]!r} has none'
            )
    return {f'{name}.csv': _to_csv(rows).encode() for name, rows in splits.items()}


def read_split(path: str | Path) -> list[SplitRow]:
    """Read the rows of a split file, in order.

    Raises:
        FileNotFoundError: If the file does not exist.
        TypeError: If ``path`` is not a path.
        ValueError: If the columns or a row are invalid, an id or image is duplicate, there are no
            rows, or the file or one written with it has changed (see
            :func:`~mmkdml.datasets.splits.accept_splits`).
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f'Invalid ann_file: expected the path of a split file, got {path!r}')
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'No split file {path}. Write it with {tool_command("dataset_converters")}, or correct '
            'ann_file, which is relative to the working directory, not to data_root'
        )
    check_manifest(path)
    return read_rows(path)


def check_splits(splits: Mapping[str, Sequence[SplitRow]]) -> None:
    """Raise ValueError if an image is in two splits, or repeated outside of training."""
    refuse_duplicates(row for rows in splits.values() for row in rows)
    for name in set(splits) - {'train'}:
        refuse_repeats(splits[name], name)


def read_rows(path: Path) -> list[SplitRow]:
    """Read the rows of a split file without its manifest; see :func:`read_split`."""
    rows: list[SplitRow] = []
    lines: dict[Any, int] = {}  # first line of each id and image
    with path.open(encoding='utf-8-sig', newline='') as file:
        reader = csv.reader(file, strict=True)
        try:
            header = tuple(next(reader, ()))
            if header != _columns(header):
                raise ValueError(
                    f'expected the columns {",".join(COLUMNS)}, of which '
                    f'{", ".join(OPTIONAL_COLUMNS)} are optional, got {",".join(header)!r}'
                )
            for values in reader:
                row = _to_row(header, values)
                for key, what in (
                    (row.id, f'id {row.id!r}'),
                    (image_key(row), f'image {row.path!r}'),
                ):
                    if key in lines:
                        raise ValueError(f'duplicate {what}, first in line {lines[key]}')
                    lines[key] = reader.line_num
                rows.append(row)
        except (ValueError, csv.Error) as error:
            raise ValueError(f'{path}, line {max(reader.line_num, 1)}: {error}') from error
    if not rows:
        raise ValueError(f'{path}: expected at least one row, got none')
    return rows


def split_counts(rows: Sequence[SplitRow]) -> dict[str, int]:
    """Count images and groups; ``positives`` of binary labels, ``samples`` of repeated images."""
    counts = dict(images=len(rows), groups=len({row.group for row in rows}))
    if all(row.label in (0, 1) for row in rows):
        counts['positives'] = sum(row.label for row in rows)
    samples = sum(row.repeats for row in rows)
    return counts if samples == len(rows) else dict(counts, samples=samples)


def counts_of(splits: Mapping[str, Sequence[SplitRow]]) -> dict[str, dict[str, int]]:
    """Return the :func:`split_counts` of each split."""
    return {name: split_counts(rows) for name, rows in splits.items()}


def _columns(optional: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the columns of a split file with some of the optional ones."""
    return tuple(c for c in COLUMNS if c in optional or c not in OPTIONAL_COLUMNS)


def _to_csv(rows: Sequence[SplitRow]) -> str:
    masked = rows[0].mask is not None
    several = rows[0].labels is not None
    repeated = any(row.repeats > 1 for row in rows)
    columns = _columns(['mask'] * masked + ['labels'] * several + ['repeats'] * repeated)
    text = io.StringIO(newline='')
    writer = csv.DictWriter(text, columns, extrasaction='ignore', lineterminator='\n')
    writer.writeheader()
    writer.writerows(
        {**vars(row), 'labels': SEPARATOR.join(row.labels or ())}
        for row in sorted(rows, key=lambda row: row.id)
    )
    return text.getvalue()


def _to_row(header: Sequence[str], values: Sequence[str]) -> SplitRow:
    if len(values) != len(header):
        raise ValueError(f'expected {len(header)} values ({",".join(header)}), got {len(values)}')
    fields: dict[str, Any] = dict(zip(header, values, strict=True))
    if not fields['label'].isdecimal():
        raise ValueError(f'expected a class index of 0 or more as label, got {fields["label"]!r}')
    if not fields.setdefault('repeats', '1').isdecimal():
        raise ValueError(f'expected repeats of 1 or more, got {fields["repeats"]!r}')
    fields.update(label=int(fields['label']), repeats=int(fields['repeats']))
    if 'labels' in fields:
        text = fields['labels']
        fields['labels'] = tuple(text.split(SEPARATOR)) if text else ()
    return SplitRow(**fields)
