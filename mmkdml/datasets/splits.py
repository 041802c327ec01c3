"""Split files: which image belongs to training, validation and test.

A split file is a CSV with one row per image and the columns ``id,path,group,label``, or
``id,path,mask,group,label`` where there are masks. Paths are POSIX and relative to the folder the
images lie in, so the file moves with the data. Images of one group (a patient, a lesion) look
alike: unless asked otherwise, a group is never divided between two splits.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

SPLITS = ('train', 'val', 'test')
COLUMNS = ('id', 'path', 'group', 'label')
COLUMNS_WITH_MASK = ('id', 'path', 'mask', 'group', 'label')
INFO_FILE = 'splits.json'


@dataclass(frozen=True)
class SplitRow:
    """One image of a data set.

    Attributes:
        id: Name of the image, unique in the data set.
        path: The image's file, POSIX, relative to the data set's folder.
        group: What the image shares with images that look alike (patient, lesion).
        label: Class index, 0 or more.
        mask: The mask's file, like ``path``; None where the data set has no masks.

    Raises:
        ValueError: If a field is empty, a path is not POSIX and relative, or the label is negative.
    """

    id: str
    path: str
    group: str
    label: int
    mask: str | None = None

    def __post_init__(self) -> None:
        for name in ('id', 'group'):
            if not getattr(self, name).strip():
                raise ValueError(f'{name} is empty in {self}')
        for path in (self.path,) if self.mask is None else (self.path, self.mask):
            pure = PurePosixPath(path)
            if not path or '\\' in path or pure.is_absolute() or '..' in pure.parts:
                raise ValueError(
                    'expected a relative path with forward slashes that stays inside '
                    f'the data folder, got {path!r}'
                )
        if self.label < 0:
            raise ValueError(f'expected a class index of 0 or more as label, got {self.label}')


def assign_groups(sizes: Mapping[str, int], ratios: Sequence[float], seed: int) -> dict[str, str]:
    """Gives every group, as a whole, to one of the splits ``train``, ``val``, ``test``.

    Groups come in an order drawn from ``seed``; each goes to the split that lacks most images to
    its share. The answer depends on names, sizes, ratios and seed, not on the order of ``sizes``.

    Args:
        sizes: Number of images of each group.
        ratios: Shares of train, val and test, in any unit (``75 10 15`` or ``.75 .1 .15``). A share
            of 0 leaves that split out.
        seed: Any integer.

    Returns:
        The split's name for each group. Every split with a positive share gets at least one group.

    Raises:
        ValueError: If the ratios are not three finite numbers >= 0 with a positive sum, or there
            are fewer groups than splits to fill.
    """
    if (
        len(ratios) != len(SPLITS)
        or not all(math.isfinite(r) and r >= 0 for r in ratios)
        or sum(ratios) <= 0
    ):
        raise ValueError(
            f'expected three finite ratios of at least 0, for {", ".join(SPLITS)}, of '
            f'which one is positive, got {list(ratios)}'
        )
    total = sum(sizes.values())
    lacking = {
        name: total * ratio / sum(ratios)
        for name, ratio in zip(SPLITS, ratios, strict=True)
        if ratio > 0
    }
    if len(sizes) < len(lacking):
        raise ValueError(
            f'expected at least {len(lacking)} groups, one for each of '
            f'{", ".join(lacking)}, got {len(sizes)}: {sorted(sizes)}. Set a ratio to '
            '0 to leave a split out, or split by image'
        )
    # random() is the one method whose sequence Python keeps the same between versions.
    rng = random.Random(seed)
    order = [name for _, name in sorted((rng.random(), name) for name in sorted(sizes))]
    empty = set(lacking)
    assigned = {}
    for done, group in enumerate(order):
        must_fill = empty and len(order) - done <= len(empty)
        split = max((s for s in lacking if s in empty or not must_fill), key=lacking.__getitem__)
        lacking[split] -= sizes[group]
        empty.discard(split)
        assigned[group] = split
    return assigned


def split_rows(
    rows: Iterable[SplitRow],
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    by_image: bool = False,
) -> dict[str, list[SplitRow]]:
    """Divides images into splits, whole groups at a time.

    Args:
        rows: The images, in any order.
        ratios: Shares of train, val and test, see :func:`assign_groups`.
        seed: Any integer; the same seed gives the same splits.
        by_image: Take each image by itself. Images of one group then land on both sides: metrics
            come out too good. Only to compare with results that were made so.

    Returns:
        Rows of each split with a positive share, sorted by id.

    Raises:
        ValueError: As :func:`assign_groups`; or if an id comes twice.
    """
    rows = sorted(rows, key=lambda row: row.id)
    _refuse_duplicates(rows)
    units = [row.id if by_image else row.group for row in rows]
    sizes: dict[str, int] = {}
    for unit in units:
        sizes[unit] = sizes.get(unit, 0) + 1
    assigned = assign_groups(sizes, ratios, seed)
    splits: dict[str, list[SplitRow]] = {s: [] for s in SPLITS if s in assigned.values()}
    for row, unit in zip(rows, units, strict=True):
        splits[assigned[unit]].append(row)
    if not by_image:
        refuse_shared_groups(splits)
    return splits


def refuse_shared_groups(splits: Mapping[str, Iterable[SplitRow]]) -> None:
    """Raises ValueError if a group has images in two splits."""
    home: dict[str, str] = {}
    for name, rows in splits.items():
        for row in rows:
            if home.setdefault(row.group, name) != name:
                raise ValueError(
                    f'group {row.group!r} is in {home[row.group]} and in {name}; a '
                    'group belongs to one split'
                )


def write_splits(
    out_dir: str | Path,
    splits: Mapping[str, Sequence[SplitRow]],
    info: Mapping[str, Any],
    force: bool = False,
) -> list[Path]:
    """Writes ``<split>.csv`` for each split, and ``splits.json`` that says how they were made.

    The same arguments give the same bytes on every machine. A reader never meets half a file: each
    is written beside its place and then renamed.

    Args:
        out_dir: Folder to write to; made if missing.
        splits: Rows of each split; all with masks or all without.
        info: What ``splits.json`` records beside the counts; JSON values.
        force: Replace split files that differ.

    Returns:
        The files written.

    Raises:
        ValueError: If a split is unknown or empty, an id comes twice, or only some rows have masks.
        FileExistsError: If ``out_dir`` holds other splits and ``force`` is not set.
    """
    unknown = set(splits) - set(SPLITS)
    if unknown or not splits or not all(splits.values()):
        raise ValueError(
            f'expected rows for some of the splits {list(SPLITS)}, got '
            f'{ {name: len(rows) for name, rows in splits.items()} }'
        )
    every_row = [row for rows in splits.values() for row in rows]
    _refuse_duplicates(every_row)
    masks = {row.mask is not None for row in every_row}
    if len(masks) > 1:
        lone = next(row for row in every_row if row.mask is None)
        raise ValueError(f'expected a mask for all images or for none, but {lone.id!r} has none')
    out_dir = Path(out_dir)
    content = {
        f'{name}.csv': _to_csv(rows, with_mask=True in masks) for name, rows in splits.items()
    }
    counts = {name: split_counts(rows) for name, rows in splits.items()}
    content[INFO_FILE] = json.dumps({**info, 'counts': counts}, indent=2) + '\n'

    present = [
        p for p in (out_dir / n for n in (*(f'{s}.csv' for s in SPLITS), INFO_FILE)) if p.exists()
    ]
    differing = [p for p in present if content.get(p.name, '').encode() != p.read_bytes()]
    if differing and not force:
        raise FileExistsError(
            f'{out_dir} holds other splits already '
            f'({", ".join(p.name for p in differing)} would change); choose '
            'another folder or replace them with --force'
        )
    out_dir.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in content.items():
        part = out_dir / f'.{name}.part'
        part.write_bytes(text.encode())
        written.append(out_dir / name)
        os.replace(part, written[-1])
    for path in set(present) - set(written):
        path.unlink()  # of a split that is now left out
    return written


def read_split(path: str | Path) -> list[SplitRow]:
    """Reads a split file, in the file's order.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the columns are not those of a split file, a row is not valid, an id comes
            twice or there are no rows. The message names file and line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f'no split file {path}; make it with a converter of '
            'tools/dataset_converters, or correct ann_file (it is taken '
            'relative to the working directory, not to data_root)'
        )
    rows: list[SplitRow] = []
    lines: dict[str, int] = {}
    with path.open(encoding='utf-8-sig', newline='') as file:
        reader = csv.reader(file, strict=True)
        try:
            header = tuple(next(reader, ()))
            if header not in (COLUMNS, COLUMNS_WITH_MASK):
                raise ValueError(
                    f'expected the columns {",".join(COLUMNS)} or '
                    f'{",".join(COLUMNS_WITH_MASK)}, got {",".join(header)!r}'
                )
            for values in reader:
                row = _to_row(header, values)
                if row.id in lines:
                    raise ValueError(f'id {row.id!r} comes twice, first in line {lines[row.id]}')
                lines[row.id] = reader.line_num
                rows.append(row)
        except (ValueError, csv.Error) as error:
            raise ValueError(f'{path}, line {max(reader.line_num, 1)}: {error}') from error
    if not rows:
        raise ValueError(f'{path} has no rows')
    return rows


def split_counts(rows: Sequence[SplitRow]) -> dict[str, int]:
    """Number of images, groups and images with a label above 0."""
    return dict(
        images=len(rows),
        groups=len({row.group for row in rows}),
        positives=sum(row.label > 0 for row in rows),
    )


def _refuse_duplicates(rows: Iterable[SplitRow]) -> None:
    first: dict[str, SplitRow] = {}
    for row in rows:
        if row.id in first:
            raise ValueError(f'id {row.id!r} comes twice: {first[row.id].path} and {row.path}')
        first[row.id] = row


def _to_csv(rows: Iterable[SplitRow], with_mask: bool) -> str:
    columns = COLUMNS_WITH_MASK if with_mask else COLUMNS
    text = io.StringIO(newline='')
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(columns)
    for row in sorted(rows, key=lambda row: row.id):
        writer.writerow([getattr(row, column) for column in columns])
    return text.getvalue()


def _to_row(header: Sequence[str], values: Sequence[str]) -> SplitRow:
    if len(values) != len(header):
        raise ValueError(f'expected {len(header)} values ({",".join(header)}), got {len(values)}')
    fields: dict[str, Any] = dict(zip(header, values, strict=True))
    if not fields['label'].isdecimal():
        raise ValueError(f'expected a class index of 0 or more as label, got {fields["label"]!r}')
    return SplitRow(**{**fields, 'label': int(fields['label'])})
