"""Division of images into splits by group, and class balancing of the training split."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mmkdml.datasets.splits.split_checks import refuse_duplicates, refuse_shared_groups
from mmkdml.datasets.splits.split_row import SplitRow
from mmkdml.names import SPLITS, named_class


def assign_groups(sizes: Mapping[str, int], ratios: Sequence[float], seed: int) -> dict[str, str]:
    """Assign every group to one of the splits ``train``, ``val`` and ``test``.

    In random order, each group is assigned to the split that is furthest below its share.
    The result depends on names, sizes, ratios and seed, but not on the order of ``sizes``.

    Args:
        sizes: Number of images of each group.
        ratios: Shares of train, val and test, in any unit (``75 10 15`` or ``.75 .1 .15``). A share
            of 0 omits that split.
        seed: Any integer.

    Returns:
        Split of each group. Every split with a positive share gets at least one group.

    Raises:
        ValueError: If the ratios are not three finite numbers >= 0 with a positive sum, or there
            are fewer groups than splits.
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
    remaining = {
        name: total * ratio / sum(ratios)
        for name, ratio in zip(SPLITS, ratios, strict=True)
        if ratio > 0
    }
    if len(sizes) < len(remaining):
        raise ValueError(
            f'expected at least {len(remaining)} groups, one for each of '
            f'{", ".join(remaining)}, got {len(sizes)}: {sorted(sizes)}. Set a ratio to '
            '0 to omit a split, or split by image'
        )
    # random() is the only method with the same sequence in all versions of Python.
    rng = random.Random(seed)
    order = [name for _, name in sorted((rng.random(), name) for name in sorted(sizes))]
    empty = set(remaining)
    assigned = {}
    for done, group in enumerate(order):
        must_fill = empty and len(order) - done <= len(empty)
        split = max(
            (s for s in remaining if s in empty or not must_fill), key=remaining.__getitem__
        )
        remaining[split] -= sizes[group]
        empty.discard(split)
        assigned[group] = split
    return assigned


def split_rows(
    rows: Iterable[SplitRow],
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    by_image: bool = False,
    by_class: bool = False,
    classes: Sequence[str] | None = None,
) -> dict[str, list[SplitRow]]:
    """Divide images into splits, without dividing groups.

    Args:
        rows: The images, in any order.
        ratios: Shares of train, val and test; see :func:`assign_groups`.
        seed: Any integer.
        by_image: Ignore groups. Similar images are then in several splits, so that metrics are
            overestimated; only to compare with results of such splits.
        by_class: Divide the images of each label separately, so that every split has the same class
            proportions (to within one group per class).
        classes: Names of the classes for messages.

    Returns:
        Rows of each split with a positive share, sorted by id.

    Raises:
        ValueError: If the arguments of :func:`assign_groups` are invalid, for any class with
            ``by_class``; if an id is duplicate; or if a group has several classes with
            ``by_class``.
    """
    rows = sorted(rows, key=lambda row: row.id)
    refuse_duplicates(rows)
    units = [row.id if by_image else row.group for row in rows]
    sizes: dict[int, dict[str, int]] = {}
    home: dict[str, int] = {}
    for row, unit in zip(rows, units, strict=True):
        label = row.label if by_class else 0
        if home.setdefault(unit, label) != label:
            raise ValueError(
                f'group {unit!r} has images of the classes {named_class(home[unit], classes)} '
                f'and {named_class(label, classes)}: expected one class per group to preserve '
                'class proportions'
            )
        of_class = sizes.setdefault(label, {})
        of_class[unit] = of_class.get(unit, 0) + 1
    assigned: dict[str, str] = {}
    for label in sorted(sizes):
        try:
            assigned |= assign_groups(sizes[label], ratios, seed)
        except ValueError as error:
            where = f'class {named_class(label, classes)}: ' if by_class else ''
            raise ValueError(f'{where}{error}') from error
    splits: dict[str, list[SplitRow]] = {s: [] for s in SPLITS if s in assigned.values()}
    for row, unit in zip(rows, units, strict=True):
        splits[assigned[unit]].append(row)
    if not by_image:
        refuse_shared_groups(splits)
    return splits


def balance_rows(rows: Iterable[SplitRow], target: int, seed: int = 0) -> list[SplitRow]:
    """Under- or oversample every class to the same number of samples.

    A larger class keeps a random subset. In a smaller class all images are repeated equally often,
    and a random subset is repeated once more.

    Args:
        rows: Images of a training split without repeats, in any order.
        target: Samples per class, >= 1.
        seed: Any integer.

    Returns:
        The remaining images with their ``repeats``, sorted by id.

    Raises:
        ValueError: If ``target`` is less than 1.
    """
    if target < 1:
        raise ValueError(f'expected at least 1 sample of each class, got {target}')
    # A separate stream, so that the subset is independent of the split.
    rng = random.Random(f'balance {seed}')
    by_class: dict[int, list[SplitRow]] = {}
    for row in sorted(rows, key=lambda row: row.id):
        by_class.setdefault(row.label, []).append(row)
    balanced = []
    for _, images in sorted(by_class.items()):
        keys = {row.id: rng.random() for row in images}
        times, once_more = divmod(target, len(images))
        for place, row in enumerate(sorted(images, key=lambda row: keys[row.id])):
            if repeats := times + (place < once_more):
                balanced.append(replace(row, repeats=repeats))
    return sorted(balanced, key=lambda row: row.id)
