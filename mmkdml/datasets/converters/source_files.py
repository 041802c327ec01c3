"""Search for files and tables in source folders as users have them."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from mmkdml.datasets.channels import NUMPY_SUFFIX

#: Suffixes of images in lower case; capitals do not matter.
SUFFIXES = ('.bmp', '.gif', '.jpeg', '.jpg', '.png', '.tif', '.tiff', '.webp')
#: The same with those of :func:`mmkdml.datasets.channels.read_channels`.
CHANNEL_SUFFIXES = (*SUFFIXES, NUMPY_SUFFIX)
# Folders with copies or thumbnails that operating systems write.
_SYSTEM = ('__MACOSX', '@eaDir', '$RECYCLE.BIN')
_TABLES = ('.csv', '.tab', '.tsv', '.txt', '')


def find_files(folder: Path, source: Path, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """Return the sorted paths of files with one of the suffixes, relative to ``source``.

    Links to folders are followed, except to a folder that contains the link. Hidden files and
    folders, and those of operating systems, are skipped. Capitals in suffixes do not matter.

    Raises:
        OSError: If a folder is not readable.
    """

    def stop(error: OSError) -> None:
        raise error

    found = []
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=stop):
        folders[:] = [name for name in folders if not _is_skipped(Path(parent, name))]
        found += [
            Path(parent, name).relative_to(source).as_posix()
            for name in names
            if not name.startswith('.') and name.lower().endswith(tuple(suffixes))
        ]
    return sorted(found)


def _is_skipped(folder: Path) -> bool:
    if folder.name.startswith('.') or folder.name in _SYSTEM:
        return True
    # Links may form a loop through several folders.
    return folder.is_symlink() and os.path.realpath(folder) in map(os.path.realpath, folder.parents)


def read_table(
    source: Path, name: str, columns: Sequence[str]
) -> tuple[str, list[tuple[int, tuple[str, ...]]]]:
    """Read some columns of a table, separated by commas, tabs or semicolons.

    Args:
        source: Folder of the table.
        name: File name with ``.csv``. If there is no such file, one with another suffix (``.tab``,
            ``.tsv``, ``.txt``, none) or other capitals is read.
        columns: Names of the columns; others are ignored.

    Returns:
        Name of the file, and its rows as number of the line and values.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If there are several such files, or the file is invalid.
    """
    path = _find_table(source, name)
    rows = []
    with path.open(encoding='utf-8-sig', newline='') as file:
        try:
            separator = max(',\t;', key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=separator)
            header = [column.strip() for column in next(reader, [])]
            if missing := [column for column in columns if column not in header]:
                raise ValueError(
                    f'expected the columns {",".join(columns)}, got {",".join(header)!r} without '
                    f'{",".join(missing)}'
                )
            places = [header.index(column) for column in columns]
            for values in filter(None, reader):
                if len(values) != len(header):
                    raise ValueError(f'expected {len(header)} values, got {len(values)}')
                rows.append((reader.line_num, tuple(values[place] for place in places)))
        except UnicodeDecodeError as error:
            raise ValueError(f'{path}: expected a table in UTF-8, got {error}') from error
        except (ValueError, csv.Error) as error:
            raise ValueError(f'{path}, line {max(reader.line_num, 1)}: {error}') from error
    return path.name, rows


def _find_table(source: Path, name: str) -> Path:
    if (source / name).is_file():
        return source / name
    stem = Path(name).stem.lower()
    found = [
        path
        for path in sorted(source.iterdir())
        if path.suffix.lower() in _TABLES and path.stem.lower() == stem and path.is_file()
    ]
    if not found:
        others = ', '.join(suffix for suffix in _TABLES[1:] if suffix)
        raise FileNotFoundError(f'no {name} in {source}, nor one with {others}')
    if len(found) > 1:
        names = ', '.join(path.name for path in found)
        raise ValueError(f'{source}: expected one table {name}, got {names}. Remove the others')
    return found[0]
