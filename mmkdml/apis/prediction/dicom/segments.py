"""Codes of the segmented structures, for DICOM segmentation objects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Longest texts of the value representations SH and LO (DICOM PS3.5 6.2).
_SHORT, _LONG = 16, 64
_CODE = ('scheme', 'value', 'meaning')
_SNOMED = 'SCT'
# Dihedral group D5 and its permutation, for the check digit of SNOMED CT (Verhoeff 1969).
_PRODUCT = [
    [(a + b) % 5 + (5 if b > 4 else 0) if a < 5 else (a - b) % 5 + (0 if b > 4 else 5)
     for b in range(10)]
    for a in range(10)
]  # fmt: skip
_PERMUTATION = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


@dataclass(frozen=True)
class Code:
    """A coded concept.

    Attributes:
        scheme: Designator of the coding scheme, such as ``'SCT'`` for SNOMED CT.
        value: The code.
        meaning: Its text.
    """

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Segment:
    """A segmented structure.

    Attributes:
        label: Text that viewers show.
        category: Category of the structure, such as 49755003, Morphologically Altered Structure.
        type: The structure, such as 108369006, Neoplasm.
    """

    label: str
    category: Code
    type: Code


@dataclass(frozen=True)
class Segments:
    """Content of a file of codes.

    Attributes:
        algorithm: Name of the algorithm.
        segments: Segments by name of the class.
        path: The file, for messages.
    """

    algorithm: str
    segments: dict[str, Segment]
    path: Path

    @property
    def content(self) -> dict[str, Any]:
        """Content of the file as JSON values."""
        return dict(
            algorithm=self.algorithm,
            segments={name: asdict(segment) for name, segment in self.segments.items()},
        )

    def of_classes(self, classes: Sequence[str]) -> list[Segment]:
        """Return the segments of the foreground classes in their order.

        Args:
            classes: Names of all classes; the first one is the background.

        Raises:
            ValueError: If a class has no segment, or a segment no class.
        """
        wanted = list(classes[1:])
        if set(wanted) != set(self.segments):
            raise ValueError(
                f'{self.path}: segments: expected one for each foreground class '
                f'({", ".join(wanted)}), got {", ".join(self.segments)}'
            )
        return [self.segments[name] for name in wanted]


def read_segments(path: str | Path) -> Segments:
    """Read and validate a JSON file of codes.

    The file has the keys ``algorithm``, a name of up to 64 characters, and ``segments``, which maps
    each foreground class to ``label`` (up to 64 characters), ``category`` and ``type``. The latter
    two have ``scheme`` and ``value`` (up to 16 characters each) and ``meaning`` (up to 64).

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is invalid, or a SNOMED CT code has a wrong check digit.
    """
    path = Path(path)
    try:
        content = json.loads(path.read_text(encoding='utf-8'), object_pairs_hook=_unique)
    except FileNotFoundError:
        raise FileNotFoundError(f'No such file of codes: {path}') from None
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f'{path}: expected a JSON file of codes ({error})') from error
    content = _keys(content, ('algorithm', 'segments'), str(path))
    algorithm = _text(content['algorithm'], _LONG, f'{path}: algorithm')
    entries = content['segments']
    if not isinstance(entries, dict) or not entries:
        raise ValueError(
            f'{path}: segments: expected a JSON object with a key for each foreground class, got '
            f'{entries!r}'
        )
    segments = {name: _segment(entry, f'{path}: {name}') for name, entry in entries.items()}
    return Segments(algorithm, segments, path)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f'the key {key!r} occurs more than once')
    return dict(pairs)


def _segment(entry: Any, where: str) -> Segment:
    entry = _keys(entry, ('label', 'category', 'type'), where)
    codes = [_code(entry[key], f'{where}.{key}') for key in ('category', 'type')]
    return Segment(_text(entry['label'], _LONG, f'{where}.label'), *codes)


def _code(entry: Any, where: str) -> Code:
    entry = _keys(entry, _CODE, where)
    longest = (_SHORT, _SHORT, _LONG)
    code = Code(
        *(_text(entry[key], n, f'{where}.{key}') for key, n in zip(_CODE, longest, strict=True))
    )
    if code.scheme == _SNOMED and not _is_snomed(code.value):
        raise ValueError(
            f'{where}.value: expected a SNOMED CT code of 6 to 18 digits with a valid '
            f'check digit, got {code.value!r}'
        )
    return code


def _keys(entry: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(
            f'{where}: expected a JSON object with the keys {", ".join(keys)}, got {entry!r}'
        )
    if set(entry) != set(keys):
        raise ValueError(
            f'{where}: expected the keys {", ".join(keys)}, got {", ".join(entry) or "none"}'
        )
    return entry


def _text(value: Any, longest: int, where: str) -> str:
    valid = isinstance(value, str) and value.strip() and value.isprintable() and '\\' not in value
    if not valid or len(value) > longest:
        raise ValueError(
            f'{where}: expected a text of 1 to {longest} characters without backslash, got '
            f'{value!r}'
        )
    return str(value)


def _is_snomed(value: str) -> bool:
    """Return whether a text is an identifier of SNOMED CT with its check digit."""
    if not (value.isascii() and value.isdigit() and 6 <= len(value) <= 18):
        return False
    check = 0
    for place, digit in enumerate(map(int, reversed(value))):
        for _ in range(place % 8):
            digit = _PERMUTATION[digit]
        check = _PRODUCT[check][digit]
    return check == 0
