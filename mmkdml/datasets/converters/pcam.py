"""Converter for PCam in the layout of the Histopathologic Cancer Detection challenge."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from mmkdml.datasets.converters.source_checks import Problems, Splits, source_folder
from mmkdml.datasets.converters.source_files import find_files, read_table
from mmkdml.datasets.images import read_image
from mmkdml.datasets.splits import SplitRow, split_rows, write_splits


def pcam_rows(source: str | Path, subset: int = 0, seed: int = 0) -> list[SplitRow]:
    """Read and check PCam in the layout of the Histopathologic Cancer Detection challenge.

    Args:
        source: Folder with ``train/<id>.tif`` (3 channels, 8 bit) and ``train_labels.csv``
            (id,label). Rows and images must match; only selected images are opened.
        subset: Number of images to select at random, half of each class; 0 selects all.
        seed: Any integer; determines the subset.

    Returns:
        A row per image. Each image is a group, because the challenge does not name the patients.

    Raises:
        FileNotFoundError: If ``source`` is not a folder or has no ``train_labels.csv``.
        ValueError: If there are no images, ``subset`` is odd, negative or too large, or an image or
            row is invalid. The message lists up to 10 problems.
    """
    source = source_folder(source, 'the folder with train/ and train_labels.csv')
    if subset < 0 or subset % 2:
        raise ValueError(
            'Invalid subset: expected an even number of images, half of each class, or 0 for all, '
            f'got {subset}'
        )
    problems = Problems(source)
    table, labels = _read_pcam_labels(source, problems)
    images: dict[str, str] = {}
    for path in find_files(source / 'train', source, ('.tif', '.tiff')):
        if (first := images.setdefault(Path(path).stem, path)) != path:
            problems.add(f'{path}: duplicate id, also {first}')
    if not images:
        raise ValueError(f'no train/<id>.tif in {source}')
    for name in sorted(labels.keys() - images.keys()):
        problems.add(f'{table}: no image train/{name}.tif')
    for name in sorted(images.keys() - labels.keys()):
        problems.add(f'{images[name]}: no row in {table}')
    problems.stop_if_any()

    chosen = sorted(labels)
    if subset:
        classes = [[name for name in chosen if labels[name] == label] for label in (0, 1)]
        if min(map(len, classes)) < subset // 2:
            raise ValueError(
                f'Invalid subset {subset}: expected {subset // 2} images of each class, '
                f'got {len(classes[0])} normal and {len(classes[1])} metastasis'
            )
        # A separate stream, so that the subset is independent of the split.
        rng = random.Random(f'subset {seed}')
        keys = {name: rng.random() for name in chosen}
        chosen = sorted(
            name for names in classes for name in sorted(names, key=keys.__getitem__)[: subset // 2]
        )

    def check(name: str) -> None:
        read_image(source / images[name], modes=('RGB',))

    rows = [
        SplitRow(name, images[name], name, labels[name])
        for name, _ in problems.check_each(chosen, check)
    ]
    return rows


def convert_pcam(
    source: str | Path,
    out: str | Path,
    subset: int = 20000,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    folds: int | None = None,
) -> Splits:
    """Write the split files of PCam; see :func:`pcam_rows` and :func:`convert_lgg`."""
    info = dict(dataset='pcam', subset=subset, seed=seed, ratios=[float(r) for r in ratios])
    splits = split_rows(pcam_rows(source, subset, seed), ratios, seed, folds=folds)
    write_splits(out, splits, info, force)
    return splits


def _read_pcam_labels(source: Path, problems: Problems) -> tuple[str, dict[str, int]]:
    table, rows = read_table(source, 'train_labels.csv', ['id', 'label'])
    labels: dict[str, int] = {}
    for line, row in rows:
        where = f'{table}, line {line}'
        if not row[0] or row[1] not in ('0', '1'):
            problems.add(f'{where}: expected an id and the label 0 or 1, got {",".join(row)!r}')
        elif row[0] in labels:
            problems.add(f'{where}: duplicate id {row[0]}')
        else:
            labels[row[0]] = int(row[1])
    return table, labels
