"""Checks of split rows: repeats, duplicates, shared groups, links that leave the data folder."""

from __future__ import annotations

import os.path as osp
import posixpath
import warnings
from collections.abc import Iterable, Iterator, Mapping

from mmkdml.datasets.splits.split_row import SplitRow
from mmkdml.datasets.volumes.store import volume_file


def refuse_repeats(rows: Iterable[SplitRow], where: str) -> None:
    """Raise ValueError if an image has ``repeats`` above 1."""
    for row in rows:
        if row.repeats > 1:
            raise ValueError(
                f'{where}: expected no repeats outside of training, got {row.repeats} for '
                f'{row.id!r}'
            )


def refuse_outside(rows: Iterable[SplitRow], root: str, where: str) -> None:
    """Raise ValueError if a file or a folder on its path is a link out of ``root``."""
    for row, path, real in links_outside(rows, root):
        raise ValueError(
            f'{where}: {path} of {row.id!r} leads out of {root or "."}, to {real}. If this is '
            'intended, set allow_outside=True in the data set'
        )


def links_outside(rows: Iterable[SplitRow], root: str) -> Iterator[tuple[SplitRow, str, str]]:
    """Yield row, path and real path of each file that is outside of ``root`` because of a link."""
    top = osp.join(osp.realpath(root), '')
    real_folders: dict[str, str] = {}  # cached, because resolving is slow
    for row in rows:
        for path in map(volume_file, filter(None, (row.path, row.mask))):
            folder, name = osp.split(osp.join(root, path))
            if folder not in real_folders:
                real_folders[folder] = osp.realpath(folder)
            real = osp.join(real_folders[folder], name)
            real = osp.realpath(real) if osp.islink(real) else real
            if not real.startswith(top):
                yield row, path, real


def refuse_duplicates(rows: Iterable[SplitRow]) -> None:
    """Raise ValueError if two rows have the same id, or the same image and mask."""
    ids: dict[str, SplitRow] = {}
    images: dict[tuple[str, str | None], SplitRow] = {}
    for row in rows:
        if row.id in ids:
            raise ValueError(f'duplicate id {row.id!r}: {ids[row.id].path} and {row.path}')
        image = image_key(row)
        if image in images:
            raise ValueError(
                f'duplicate image {row.path!r}: ids {images[image].id!r} and {row.id!r}'
            )
        ids[row.id] = images[image] = row


def image_key(row: SplitRow) -> tuple[str, str | None]:
    """Return a key that is equal for rows with the same image and mask."""
    return posixpath.normpath(row.path), row.mask


def refuse_shared_groups(splits: Mapping[str, Iterable[SplitRow]]) -> None:
    """Raise ValueError if a group has images in two splits."""
    home: dict[str, str] = {}
    for name, rows in splits.items():
        for row in rows:
            if home.setdefault(row.group, name) != name:
                raise ValueError(
                    f'group {row.group!r} is in {home[row.group]} and in {name}: expected '
                    'each group in one split. Move its rows, or use --split-by image'
                )


def warn_of_shared_groups(splits: Mapping[str, Iterable[SplitRow]], groups: str = 'groups') -> None:
    """Warn of groups with images in several splits, which make metrics too good.

    Args:
        splits: Rows of each split.
        groups: Word for the groups.
    """
    earlier: dict[str, set[str]] = {}
    leaks = []
    for name, rows in splits.items():
        own = {row.group for row in rows}
        if earlier and (shared := own & set().union(*earlier.values())):
            leaks.append(f'{len(shared)} of {len(own)} {groups} in {name}')
        earlier[name] = own
    if leaks:
        warnings.warn(
            f'Split by image: {" and ".join(leaks)} also have images in {next(iter(earlier))}'
            f'{" or other parts" * (len(earlier) > 2)}. Metrics will be too good; compare them '
            'only with results of such splits',
            stacklevel=3,
        )
