"""Rows of split files."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

#: Separates the names of several classes.
SEPARATOR = '|'
# Undecodable bytes of file names, and characters that break CSV readers.
_UNWRITABLE = re.compile('[\r\0\ud800-\udfff]')


def check_inside(path: str) -> None:
    """Raise ValueError if a path is not POSIX and relative, or leads out of its folder."""
    pure = PurePosixPath(path)
    # Drive letters are absolute on Windows; URLs contain //.
    elsewhere = pure.is_absolute() or path[1:2] == ':' or '..' in pure.parts
    if not path or elsewhere or any(part in path for part in ('\\', '//', '\0')):
        raise ValueError(
            'expected a relative path with forward slashes that stays inside '
            f'the data folder, got {path!r}'
        )


@dataclass(frozen=True)
class SplitRow:
    """Image of a data set, a row of a split file.

    Attributes:
        id: Name of the image, unique in the data set.
        path: File of the image, POSIX, relative to the data folder.
        group: Name shared by similar images, such as those of a patient or lesion.
        label: Class index, >= 0.
        mask: File of the mask, like ``path``; None if the data set has no masks.
        labels: Names of the classes of an image that can have several or none; None if images have
            one class each. ``label`` is then 1 if there is any.
        repeats: Number of times that a training epoch uses the image, >= 1.

    Raises:
        ValueError: If a field is empty or contains characters that a split file cannot store, id or
            group has surrounding spaces, a path is not POSIX and relative, or a number is too
            small.
    """

    id: str
    path: str
    group: str
    label: int
    mask: str | None = None
    repeats: int = 1
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        for name in ('id', 'group'):
            value = getattr(self, name)
            if not value.strip():
                raise ValueError(f'{name} is empty in {self}')
            if value != value.strip():  # ' x' and 'x' would be two patients
                raise ValueError(f'expected {name} without surrounding spaces, got {value!r}')
        for path in (self.path,) if self.mask is None else (self.path, self.mask):
            check_inside(path)
        for text in (self.id, self.path, self.mask, self.group):
            if _UNWRITABLE.search(text or ''):
                raise ValueError(
                    'expected text without carriage returns, null characters or undecodable bytes, '
                    f'got {text!r}. Rename the file or the group'
                )
        self._check_labels()
        if self.label < 0:
            raise ValueError(f'expected a class index of 0 or more as label, got {self.label}')
        if self.repeats < 1:
            raise ValueError(f'expected repeats of 1 or more, got {self.repeats}')

    def _check_labels(self) -> None:
        if self.labels is None:
            return
        names = self.labels
        invalid = [one for one in names if one != one.strip() or not one or SEPARATOR in one]
        if invalid or len({*names}) < len(names) or _UNWRITABLE.search(''.join(names)):
            raise ValueError(
                f'expected labels of different names without surrounding spaces and {SEPARATOR!r}, '
                f'got {names}'
            )
        if self.label != int(bool(names)):
            raise ValueError(
                f'expected label {int(bool(names))}, which is 1 if an image has any of the labels, '
                f'got {self.label} with labels {names}'
            )
