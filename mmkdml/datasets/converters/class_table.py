"""Tables of classes of masks, in CSV and JSON files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmkdml.datasets.class_masks import ClassTable, Value
from mmkdml.datasets.converters.source_files import read_table

_COLOR = ('r', 'g', 'b')


def read_class_table(
    source: Path, name: str, ignore: Sequence[str] = ()
) -> tuple[tuple[str, ...], ClassTable]:
    """Read the names of classes and their values in masks.

    Args:
        source: Folder that ``name`` is relative to.
        name: CSV file with the columns ``name``, ``value`` or ``r``, ``g`` and ``b``, or all of
            them; or JSON file with a list of names, whose values are 0, 1, ..., or an object of
            names and values or lists of r, g and b. The first class is the background.
        ignore: Values of ignored pixels: ``'255'``, or ``'255,255,255'`` for colors.

    Returns:
        The names, and the table.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file or a value of ``ignore`` is invalid.
    """
    path = source / name
    if not path.is_file():
        raise FileNotFoundError(f'No table of classes {path}. --classes is relative to {source}')
    try:
        names, values, colors = (_of_json if path.suffix.lower() == '.json' else _of_csv)(path)
        names = [one.strip() for one in names]
        if not all(names) or len({*names}) < len(names):
            raise ValueError(f'expected different names of the classes, got {names}')
        ignored = tuple(_number(one) for one in ignore)
        shown = None if colors is None else tuple(colors)
        return tuple(names), ClassTable(tuple(values), ignored, shown)
    except (ValueError, TypeError, RecursionError) as error:
        place = '' if str(error).startswith(str(path)) else f'Invalid classes in {path}: '
        raise ValueError(f'{place}{error}') from error


def _of_json(path: Path) -> tuple[list[str], list[Value], None]:
    content = json.loads(path.read_text(encoding='utf-8-sig'), object_pairs_hook=_unique)
    if isinstance(content, list) and all(isinstance(one, str) for one in content):
        return content, list(range(len(content))), None
    if not isinstance(content, dict):
        raise ValueError('expected a list of names, or an object of names and values')
    values: list[Any] = list(content.values())
    return list(content), [tuple(one) if isinstance(one, list) else one for one in values], None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(names := [name for name, _ in pairs]) > len({*names}):
        raise ValueError(f'expected different names of the classes, got {names}')
    return dict(pairs)


def _of_csv(path: Path) -> tuple[list[str], list[Value], list[tuple[int, int, int]] | None]:
    with path.open(encoding='utf-8-sig') as file:
        header = {one.strip().lower() for one in file.readline().replace(';', ',').split(',')}
    with_value, with_color = 'value' in header, {*_COLOR} <= header
    if not with_value and not with_color:
        raise ValueError('expected the columns name and value, or name, r, g and b')
    columns = ['name', *['value'] * with_value, *_COLOR * with_color]
    _, lines = read_table(path.parent, path.name, columns)
    names = [values[0] for _, values in lines]
    colors: list[Any] = [_number(','.join(values[-3:])) for _, values in lines if with_color]
    if not with_value:
        return names, colors, None
    return names, [_number(values[1]) for _, values in lines], colors or None


def _number(text: str) -> Value:
    parts = [one.strip() for one in text.split(',')]
    if not all(one.isdecimal() for one in parts) or len(parts) not in (1, 3):
        raise ValueError(f'expected a value such as 255, or a color such as 255,0,0, got {text!r}')
    red, *others = map(int, parts)
    return (red, *others) if others else red  # type: ignore[return-value]
