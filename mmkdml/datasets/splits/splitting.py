"""Division of images into splits by group, and class balancing of the training split."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from mmkdml.datasets.splits.split_checks import refuse_duplicates, refuse_shared_groups
from mmkdml.datasets.splits.split_row import SplitRow
from mmkdml.names import SPLITS, fold_folder, named_class


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
    folds: int | None = None,
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
        folds: Divide into the folds of a cross-validation instead, see :func:`fold_rows`, whose
            test splits always preserve class proportions.

    Returns:
        Rows of each split with a positive share, sorted by id. Names of splits of a fold are like
        ``fold_0/train``.

    Raises:
        ValueError: If the arguments of :func:`assign_groups` are invalid, for any class with
            ``by_class``; if an id is duplicate; or if a group has several classes with
            ``by_class``.
    """
    if folds is not None:
        divided = fold_rows(rows, folds, ratios, seed, by_image, by_class, classes)
        return {f'{fold_folder(k)}/{name}': part for k, splits in enumerate(divided)
                for name, part in splits.items()}  # fmt: skip
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


def fold_rows(
    rows: Iterable[SplitRow],
    folds: int,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    by_image: bool = False,
    by_class: bool = False,
    classes: Sequence[str] | None = None,
) -> list[dict[str, list[SplitRow]]]:
    """Divide images into the folds of a cross-validation, without dividing groups.

    Each image is in the test split of one fold. The test splits have similar sizes and class
    proportions: groups are assigned in random order, those with the most uneven classes first,
    each to the test split that it keeps most balanced, as in scikit-learn's
    ``StratifiedGroupKFold``.
    The other images of a fold are divided into train and val by :func:`split_rows`.

    Args:
        rows: The images, in any order. Classes are their ``labels``, or ``label`` without these.
        folds: Number of folds K, at least 2.
        ratios: Shares of train, val and test. That of test has no effect: it is 1 / K.
        seed: Any integer.
        by_image: Ignore groups, see :func:`split_rows`.
        by_class: Preserve class proportions in train and val, too, see :func:`split_rows`.
        classes: Names of the classes for messages.

    Returns:
        Rows of each split of each fold, sorted by id.

    Raises:
        ValueError: If ``folds`` is less than 2 or larger than the number of groups, an id is
            duplicate, or train and val cannot be divided (see :func:`assign_groups`).
    """
    rows = sorted(rows, key=lambda row: row.id)
    refuse_duplicates(rows)
    units: dict[str, list[SplitRow]] = {}
    for row in rows:
        units.setdefault(row.id if by_image else row.group, []).append(row)
    if not 2 <= folds <= len(units):
        raise ValueError(
            f'Invalid folds: expected 2 to {len(units)}, the number of '
            f'{"images" if by_image else "groups"}, got {folds}'
        )
    home = _stratified_parts(list(units.values()), folds, seed)
    train, val, _ = ratios
    found = []
    for fold in range(folds):
        test = [row for unit, of in zip(units.values(), home, strict=True) if of == fold
                for row in unit]  # fmt: skip
        ids = {row.id for row in test}
        rest = [row for row in rows if row.id not in ids]
        splits = split_rows(rest, (train, val, 0), seed, by_image, by_class, classes)
        found.append({**splits, 'test': sorted(test, key=lambda row: row.id)})
    return found


def _stratified_parts(units: Sequence[Sequence[SplitRow]], parts: int, seed: int) -> list[int]:
    """Assign units of images to parts of similar size and class proportions."""
    names = sorted({one for unit in units for row in unit for one in _classes(row)}, key=str)
    index = {name: i for i, name in enumerate(names)}
    counts = np.zeros((len(units), len(names) + 1))
    for place, unit in enumerate(units):
        counts[place, -1] = len(unit)
        for row in unit:
            for one in _classes(row):
                counts[place, index[one]] += 1
    shares = counts / np.maximum(counts.sum(0), 1)
    rng = random.Random(seed)  # random() is the same in all versions of Python
    keys = [rng.random() for _ in units]
    spread = shares.std(1).round(12)
    order = sorted(range(len(units)), key=lambda i: (-spread[i], -counts[i, -1], keys[i]))
    filled = np.zeros((parts, shares.shape[1]))
    numbers = np.zeros(parts, int)
    home = [0] * len(units)
    for done, place in enumerate(order):
        uneven = [(filled + np.eye(parts)[part][:, None] * shares[place]).std(0).mean()
                  for part in range(parts)]  # fmt: skip
        # The last units fill empty parts.
        must_fill = len(order) - done <= (numbers == 0).sum()
        chosen = min(
            (part for part in range(parts) if not must_fill or numbers[part] == 0),
            key=lambda part: (round(uneven[part], 12), filled[part, -1], part),
        )
        filled[chosen] += shares[place]
        numbers[chosen] += 1
        home[place] = chosen
    return home


def _classes(row: SplitRow) -> tuple[int | str, ...]:
    return (row.label,) if row.labels is None else row.labels


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
