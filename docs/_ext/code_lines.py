"""Find the line of code that a page refers to. Needs no Sphinx, so that tests can use it."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def find_line(reference: str) -> tuple[str, int]:
    """Find the only line with a piece of code in an object or file of the repository.

    Args:
        reference: ``<object or file>::<code>``, such as
            ``mmkdml.functional.feature_mse::F.mse_loss`` or ``suites/table_4.py::seeds``.

    Returns:
        Path relative to the repository, and number of the line.

    Raises:
        ValueError: If there is no such object or file, or not exactly one such line.
    """
    where, separator, code = reference.partition('::')
    if not separator or not code:
        raise ValueError(
            f'Invalid code reference: expected <object or file>::<code>, got {reference!r}'
        )
    if '/' in where:
        path, lines, first = ROOT / where, (ROOT / where).read_text().splitlines(), 1
    else:
        value = find_object(where)
        path, (lines, first) = Path(inspect.getsourcefile(value)), inspect.getsourcelines(value)
        first = first or 1  # 0 for a module
    found = [number for number, line in enumerate(lines, first) if code in line]
    if len(found) != 1:
        raise ValueError(
            f'Invalid code reference {reference!r}: expected one line with {code!r} in {where}, '
            f'found {len(found)}. The code has changed: correct the page'
        )
    return path.resolve().relative_to(ROOT).as_posix(), found[0]


def find_object(name: str) -> Any:
    """Import a module, class, function or method by its dotted name.

    Raises:
        ValueError: If there is none.
    """
    parts = name.split('.')
    for end in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module('.'.join(parts[:end]))
        except ImportError:
            continue
        try:
            for part in parts[end:]:
                value = getattr(value, part)
        except AttributeError:
            break
        return inspect.unwrap(value) if callable(value) else value
    raise ValueError(f'There is no {name}')


def public_names(packages: tuple[str, ...]) -> dict[str, str]:
    """Map the short names that packages export to the full names under which they are documented.

    Several packages may export a name; it is documented in the one that defines it.
    """
    names: dict[str, str] = {}
    for package in packages:
        module = importlib.import_module(package)
        for name in exported(module):
            if name not in names or getattr(module, name).__module__.startswith(f'{package}.'):
                names[name] = f'{package}.{name}'
    return names


def exported(module: ModuleType) -> list[str]:
    """Return the classes and functions in ``__all__``."""
    return [name for name in getattr(module, '__all__', ()) if callable(getattr(module, name))]


def repository_file(text: str) -> Path | None:
    """Return the file of the repository that a path names, if it is one of code or text."""
    if not re.fullmatch(r'[\w.-]+(/[\w.-]+)+', text):
        return None
    path = (ROOT / text).resolve()
    readable = path.suffix in ('.py', '.sh', '.csv', '.md', '.yml') and path.is_file()
    return path if readable and path.is_relative_to(ROOT) else None
