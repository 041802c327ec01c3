"""From data sets as their owners publish them to split files. No image is copied or changed."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image
from rich.console import Console
from rich.progress import track

from mmkdml.datasets.splits import SplitRow, split_rows, write_splits

Splits = dict[str, list[SplitRow]]
_T = TypeVar('_T')
MAX_PROBLEMS = 10


class _Problems:
    """Collects what is wrong with a source, to tell it in one error."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.found: list[str] = []

    def add(self, problem: str) -> None:
        self.found.append(problem)
        if len(self.found) == MAX_PROBLEMS:
            self.stop_if_any()

    def stop_if_any(self) -> None:
        if self.found:
            more = f', stopped after {MAX_PROBLEMS}' if len(self.found) == MAX_PROBLEMS else ''
            lines = ''.join(f'\n  - {problem}' for problem in self.found)
            raise ValueError(f'{self.source} cannot be used as it is{more}:{lines}')


def lgg_rows(source: str | Path) -> list[SplitRow]:
    """Reads and checks the LGG MRI segmentation data set (``kaggle_3m``).

    Args:
        source: Folder with one folder per patient, holding ``<slice>.tif`` (3 channels, 8 bit) and
            ``<slice>_mask.tif`` ({0, 255} or {0, 1}). Files beside the patients' folders that are
            no TIFF (``data.csv``, ``README.md``) are ignored.

    Returns:
        A row per slice: id is the file's stem, group the patient's folder, label 1 if the mask has
        any foreground.

    Raises:
        FileNotFoundError: If ``source`` is no folder.
        ValueError: If there are no slices, or any of them cannot be used: a mask without image or
            an image without mask, sizes that differ, a mask that is not binary, a file that cannot
            be read or has other channels, the same slice in two folders. Lists up to 10.
    """
    source = _folder(source, 'the folder kaggle_3m, with one folder per patient')
    problems = _Problems(source)
    tiffs = sorted(source.rglob('*.tif'))
    images = [p for p in tiffs if not p.stem.endswith('_mask')]
    masks = {
        p.with_name(p.name.replace('_mask.tif', '.tif')): p
        for p in tiffs
        if p.stem.endswith('_mask')
    }
    if not images:
        raise ValueError(f'no <patient>/<slice>.tif in {source}')
    seen: dict[str, Path] = {}
    rows = []
    for image in _track(images, 'checking slices'):
        name = image.relative_to(source).as_posix()
        mask = masks.pop(image, None)
        if image.parent.parent != source:
            problems.add(f'{name}: expected <patient>/<slice>.tif')
        elif seen.setdefault(image.stem, image) != image:
            problems.add(f'{name}: duplicate id, also in {seen[image.stem].parent.name}')
        elif mask is None:
            problems.add(f'{name}: no mask {image.stem}_mask.tif beside it')
        else:
            try:
                label = _lesion_label(image, mask)
            except ValueError as error:
                problems.add(f'{image.parent.name}/{error}')
                continue
            rows.append(
                SplitRow(
                    image.stem, name, image.parent.name, label, mask.relative_to(source).as_posix()
                )
            )
    for mask in masks.values():
        problems.add(f'{mask.relative_to(source).as_posix()}: mask without image')
    problems.stop_if_any()
    return rows


def pcam_rows(source: str | Path, subset: int = 0, seed: int = 0) -> list[SplitRow]:
    """Reads and checks PCam as the Histopathologic Cancer Detection challenge publishes it.

    Args:
        source: Folder with ``train/<id>.tif`` (3 channels, 8 bit) and ``train_labels.csv``
            (id,label). Every image needs its row and every row its image; only chosen images are
            opened.
        subset: Number of images to choose at random, half of each class; 0 takes all.
        seed: Any integer; chooses the subset.

    Returns:
        A row per image. The challenge does not say which images are from one patient, so each image
        is a group of its own.

    Raises:
        FileNotFoundError: If ``source`` is no folder or has no ``train_labels.csv``.
        ValueError: If there are no images, ``subset`` is odd, negative or more than there is, or an
            image or row cannot be used. Lists up to 10.
    """
    source = _folder(source, 'the folder with train/ and train_labels.csv')
    if subset < 0 or subset % 2:
        raise ValueError(
            'expected an even number of images to choose, half of each class, or 0 '
            f'for all, got {subset}'
        )
    problems = _Problems(source)
    labels = _read_pcam_labels(source / 'train_labels.csv', problems)
    images = {p.stem: p for p in (source / 'train').glob('*.tif')}
    if not images:
        raise ValueError(f'no train/<id>.tif in {source}')
    for name in sorted(labels.keys() - images.keys()):
        problems.add(f'train_labels.csv: no image train/{name}.tif')
    for name in sorted(images.keys() - labels.keys()):
        problems.add(f'train/{name}.tif: no row in train_labels.csv')
    problems.stop_if_any()

    chosen = sorted(labels)
    if subset:
        classes = [[name for name in chosen if labels[name] == label] for label in (0, 1)]
        if min(map(len, classes)) < subset // 2:
            raise ValueError(
                f'a subset of {subset} needs {subset // 2} images of each class; '
                f'there are {len(classes[0])} normal and {len(classes[1])} metastasis'
            )
        # A stream of its own, so that the choice and the split do not depend on each other.
        rng = random.Random(f'subset {seed}')
        keys = {name: rng.random() for name in chosen}
        chosen = sorted(
            name for names in classes for name in sorted(names, key=keys.__getitem__)[: subset // 2]
        )
    for name in _track(chosen, 'checking images'):
        try:
            _read(images[name], ('RGB',))
        except ValueError as error:
            problems.add(f'train/{error}')
    problems.stop_if_any()
    return [SplitRow(name, f'train/{name}.tif', name, labels[name]) for name in chosen]


def convert_lgg(
    source: str | Path,
    out: str | Path,
    split_by: str = 'patient',
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
) -> Splits:
    """Writes the split files of LGG, see :func:`lgg_rows` and :func:`~.splits.split_rows`.

    Args:
        source: The folder ``kaggle_3m``.
        out: Folder for the split files.
        split_by: ``'patient'`` keeps a patient's slices together; ``'image'`` does not, and leaks.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.

    Raises:
        ValueError: If ``split_by`` is neither.
    """
    if split_by not in ('patient', 'image'):
        raise ValueError(f"expected split_by 'patient' or 'image', got {split_by!r}")
    splits = split_rows(lgg_rows(source), ratios, seed, by_image=split_by == 'image')
    write_splits(
        out,
        splits,
        dict(dataset='lgg', split_by=split_by, seed=seed, ratios=[float(r) for r in ratios]),
        force,
    )
    return splits


def convert_pcam(
    source: str | Path,
    out: str | Path,
    subset: int = 20000,
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
) -> Splits:
    """Writes the split files of PCam, see :func:`pcam_rows`; arguments as :func:`convert_lgg`."""
    splits = split_rows(pcam_rows(source, subset, seed), ratios, seed)
    write_splits(
        out,
        splits,
        dict(dataset='pcam', subset=subset, seed=seed, ratios=[float(r) for r in ratios]),
        force,
    )
    return splits


def _folder(source: str | Path, what: str) -> Path:
    source = Path(source)
    if not source.is_dir():
        raise FileNotFoundError(f'{source} is not a folder; expected {what}')
    return source


def _track(items: Sequence[_T], description: str) -> Iterable[_T]:
    # On stderr, so that a pipe gets the table alone.
    return track(items, description, console=Console(stderr=True), transient=True)


def _read(path: Path, modes: Sequence[str]) -> np.ndarray:
    """The pixels of an image in one of these Pillow modes; ValueError names the file."""
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, np.asarray(image)
    except Exception as error:  # a broken file makes Pillow raise nearly anything
        raise ValueError(
            f'{path.name}: unreadable image ({type(error).__name__}: {error})'
        ) from error
    if mode not in modes:
        raise ValueError(f'{path.name}: expected an image of mode {" or ".join(modes)}, got {mode}')
    return pixels


def _lesion_label(image: Path, mask: Path) -> int:
    size, pixels = _read(image, ('RGB',)).shape[:2], _read(mask, ('L', '1'))
    if pixels.shape != size:
        raise ValueError(
            f'{mask.name}: the mask is {pixels.shape[1]}x{pixels.shape[0]}, its image '
            f'{size[1]}x{size[0]}'
        )
    values = np.unique(pixels).tolist()
    if not (set(values) <= {0, 255} or set(values) <= {0, 1}):
        shown = ', '.join(map(str, values[:8])) + (', ...' if len(values) > 8 else '')
        raise ValueError(
            f'{mask.name}: expected a binary mask, {{0, 255}} or {{0, 1}}, got the values {shown}'
        )
    return int(values[-1] > 0)


def _read_pcam_labels(path: Path, problems: _Problems) -> dict[str, int]:
    if not path.is_file():
        raise FileNotFoundError(f'no {path.name} in {path.parent}')
    labels: dict[str, int] = {}
    with path.open(encoding='utf-8-sig', newline='') as file:
        reader = csv.reader(file)
        if (header := next(reader, [])) != ['id', 'label']:
            raise ValueError(f'{path}: expected the columns id,label, got {",".join(header)!r}')
        for row in reader:
            where = f'{path.name}, line {reader.line_num}'
            if len(row) != 2 or not row[0] or row[1] not in ('0', '1'):
                problems.add(f'{where}: expected an id and the label 0 or 1, got {",".join(row)!r}')
            elif row[0] in labels:
                problems.add(f'{where}: duplicate id {row[0]}')
            else:
                labels[row[0]] = int(row[1])
    return labels
