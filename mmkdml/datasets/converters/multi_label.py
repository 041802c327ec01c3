"""Custom data with several classes per image in a table, such as NIH ChestX-ray14."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mmkdml.datasets.converters.source_checks import Problems, Splits, refuse_folds, source_folder
from mmkdml.datasets.converters.source_files import find_files, read_table
from mmkdml.datasets.images import read_image
from mmkdml.datasets.splits import SplitRow, refuse_shared_groups, split_rows, write_splits
from mmkdml.datasets.splits.split_row import SEPARATOR
from mmkdml.functional.checks import check_choice
from mmkdml.names import SPLITS

_VALUES = {'1': True, '1.0': True, '0': False, '0.0': False, '': False}
_UNCERTAIN = ('-1', '-1.0')
_RULES = ('zeros', 'ones', 'drop')


def multi_label_rows(
    source: str | Path,
    table: str,
    image: str = 'Image Index',
    group: str | None = 'Patient ID',
    labels: str = 'Finding Labels',
    class_columns: Sequence[str] | None = None,
    no_class: str = 'No Finding',
    separator: str = SEPARATOR,
    uncertain: str | None = None,
) -> tuple[list[SplitRow], tuple[str, ...]]:
    """Read and check images whose classes are in a table.

    The defaults are the columns of NIH ChestX-ray14 (``Data_Entry_2017.csv``).

    Args:
        source: Folder with the table, and the images (8 bit) in any subfolder.
        table: File name of the table, with commas, tabs or semicolons.
        image: Column with the file name of the image, or its path below ``source``.
        group: Column with the group (patient); None if each image is a group.
        labels: Column with the names of the classes, joined by ``separator``.
        class_columns: Columns of single classes, with 1, or 0 or nothing; instead of ``labels``.
        no_class: Name in ``labels`` of images without any class, in addition to an empty cell.
        separator: Text between the names in ``labels``.
        uncertain: Treatment of -1 in ``class_columns``, a finding that may be present, as in
            CheXpert: ``'zeros'`` counts it as absent, ``'ones'`` as present, ``'drop'`` leaves the
            image out. Default: an error.

    Returns:
        A row per image, and the names of the classes: ``class_columns``, or those in the table,
        sorted. The id is the path below ``source`` without suffix.

    Raises:
        FileNotFoundError: If ``source`` is not a folder or has no such table.
        ValueError: If a column is missing, a value or image is invalid, or images and rows do not
            match. The message lists up to 10 problems. If ``separator`` is empty, or ``uncertain``
            is invalid or has no ``class_columns``.
    """
    if not separator.strip() and separator != ' ':
        raise ValueError(
            f'Invalid separator: expected text such as {SEPARATOR!r}, got {separator!r}'
        )
    if uncertain is not None:
        check_choice('uncertain', uncertain, _RULES)
        if class_columns is None:
            raise ValueError(
                f'Invalid uncertain (--uncertain) {uncertain!r}: expected class columns '
                '(--class-columns), which can have the value -1, got none'
            )
    source = source_folder(source, f'the folder with the images and {table}')
    problems = Problems(source)
    columns = list(class_columns or [labels])
    keys = [image] if group is None else [image, group]
    name, lines = read_table(source, table, [*keys, *columns])
    find = _Images(find_files(source, source))
    rows: dict[str, SplitRow] = {}
    seen: set[str] = set()
    for line, values in lines:
        where = f'{name}, line {line}'
        try:
            path = find(values[0].strip())
            if path in seen:
                raise ValueError(f'duplicate {image} {values[0]!r}')
            seen.add(path)
            cells = values[len(keys) :]
            if class_columns is None:
                found = _names(cells[0], separator, no_class)
            else:
                found, is_certain = _present(cells, class_columns, uncertain)
                if not is_certain and uncertain == 'drop':
                    continue
            image_id = Path(path).with_suffix('').as_posix()
            own = values[1].strip() if group is not None else image_id
            rows[path] = SplitRow(image_id, path, own, int(bool(found)), labels=found)
        except ValueError as error:
            problems.add(f'{where}: {error}')
    for path in find.unused(seen):
        problems.add(f'{path}: no row in {name}')
    problems.stop_if_any()
    if dropped := len(seen) - len(rows):
        warnings.warn(
            f'{dropped} of {len(seen)} images with uncertain labels (-1) are left out', stacklevel=2
        )
    names = {one for row in rows.values() for one in row.labels or ()}
    classes = tuple(class_columns or sorted(names))
    if not classes:
        raise ValueError(f'{name}: expected an image with a class, got none in {len(rows)} rows')

    def check(path: str) -> None:
        read_image(source / path)

    return [rows[path] for path, _ in problems.check_each(sorted(rows), check)], classes


def convert_multi_label(
    source: str | Path,
    out: str | Path,
    table: str,
    image: str = 'Image Index',
    group: str | None = 'Patient ID',
    labels: str = 'Finding Labels',
    class_columns: Sequence[str] | None = None,
    no_class: str = 'No Finding',
    test_list: str | None = None,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    separator: str = SEPARATOR,
    uncertain: str | None = None,
    folds: int | None = None,
) -> Splits:
    """Write split files for images whose classes are in a table; see :func:`multi_label_rows`.

    Groups are in one split each. Class proportions are not balanced between the splits.

    Args:
        source: Folder with the table and the images.
        out: Folder for the split files.
        table: See :func:`multi_label_rows`, as the following arguments.
        image: Column of the image.
        group: Column of the group.
        labels: Column of the classes.
        class_columns: Columns of single classes.
        no_class: Name for images without any class.
        test_list: File below ``source`` with the name of a test image per line, such as NIH's
            ``test_list.txt``; the other images are divided by the first two ratios.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.
        separator: See :func:`multi_label_rows`, as ``uncertain``.
        uncertain: Treatment of -1 in ``class_columns``.
        folds: See :func:`convert_lgg`.

    Raises:
        FileNotFoundError: If ``test_list`` does not exist.
        ValueError: If ``test_list`` names unknown images, divides a group, or is combined with
            ``folds``.
    """
    if test_list is not None:
        refuse_folds(folds, 'test_list')
    rows, classes = multi_label_rows(
        source, table, image, group, labels, class_columns, no_class, separator, uncertain
    )
    if test_list is None:
        splits = split_rows(rows, ratios, seed, folds=folds)
    else:
        test = _listed(Path(source, test_list), rows)
        splits = split_rows([row for row in rows if row not in test], [*ratios[:2], 0], seed)
        splits[SPLITS[-1]] = sorted(test, key=lambda row: row.id)
        refuse_shared_groups(splits)
    info: dict[str, Any] = dict(
        dataset='multi_label',
        table=table,
        classes=classes,
        test_list=test_list,
        **({} if uncertain is None else dict(uncertain=uncertain)),
        seed=seed,
        ratios=[float(ratio) for ratio in ratios],
    )
    write_splits(out, splits, info, force)
    return splits


class _Images:
    """Finds an image by its path or unique file name, with or without suffix."""

    def __init__(self, paths: Iterable[str]) -> None:
        self._paths = dict.fromkeys(paths)
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for path in self._paths:
            for key in {Path(path).name, Path(path).stem}:
                self._by_name[key].append(path)

    def __call__(self, name: str) -> str:
        found = [name] if name in self._paths else self._by_name.get(name, [])
        if len(found) != 1:
            raise ValueError(f'expected one image {name!r}, got {", ".join(found) or "none"}')
        return found[0]

    def unused(self, used: Iterable[str]) -> list[str]:
        """Return the images that are not used."""
        return sorted(self._paths.keys() - set(used))


def _names(cell: str, separator: str, no_class: str) -> tuple[str, ...]:
    """Return the classes in a cell with names."""
    names = [one.strip() for one in cell.split(separator)] if cell.strip() else []
    if no_class in names and len(names) > 1:
        raise ValueError(f'expected {no_class!r} without other labels, got {cell!r}')
    return tuple(name for name in names if name != no_class)


def _present(
    values: Sequence[str], columns: Sequence[str], uncertain: str | None
) -> tuple[tuple[str, ...], bool]:
    """Return the classes whose cells are 1, and whether no cell is uncertain."""
    found, is_certain = [], True
    for column, value in zip(columns, map(str.strip, values), strict=True):
        doubtful = value in _UNCERTAIN
        if doubtful and uncertain is None:
            raise ValueError(
                f'expected 0, 1 or nothing as {column}, got {value!r}. For uncertain labels set '
                f'uncertain (--uncertain) to {", ".join(_RULES)}'
            )
        if not doubtful and value not in _VALUES:
            raise ValueError(f'expected 0, 1 or nothing as {column}, got {value!r}')
        is_certain &= not doubtful
        if _VALUES.get(value, uncertain == 'ones'):
            found.append(column)
    return tuple(found), is_certain


def _listed(path: Path, rows: Sequence[SplitRow]) -> set[SplitRow]:
    names = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    find, by_path = _Images(row.path for row in rows), {row.path: row for row in rows}
    try:
        return {by_path[find(name)] for name in names}
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error
