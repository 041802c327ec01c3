"""Converter for BCCD: boxes of blood cells in the layout of Pascal VOC."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mmkdml.datasets.converters.source_checks import Splits
from mmkdml.datasets.converters.voc import convert_voc
from mmkdml.functional.checks import check_choice

CELLS = ('RBC', 'WBC', 'Platelets')


def convert_bccd(
    source: str | Path,
    out: str | Path,
    split: str = 'published',
    ratios: Sequence[float] = (75, 10, 15),
    seed: int = 0,
    force: bool = False,
    folds: int | None = None,
) -> Splits:
    """Write split files and ``annotations.json`` of BCCD (github.com/Shenggan/BCCD_Dataset).

    Two of the 4,888 boxes are empty and dropped. There are no patients: each image is a group.

    Args:
        source: Folder ``BCCD`` with ``JPEGImages``, ``Annotations`` and ``ImageSets``.
        out: Folder for the split files.
        split: ``'published'`` for the lists in ``ImageSets/Main`` (205, 87 and 72 images), or
            ``'random'`` by ``ratios`` and ``seed``.
        ratios: Shares of train, val and test.
        seed: Any integer.
        force: Replace other split files in ``out``.
        folds: See :func:`convert_lgg`.

    Raises:
        ValueError: If ``split`` is invalid, or ``'published'`` with ``folds``.
    """
    check_choice('split', split, ('published', 'random'))
    return convert_voc(
        source,
        out,
        classes=CELLS,
        drop=('empty',),
        image_sets='ImageSets/Main' if split == 'published' else None,
        ratios=ratios,
        seed=seed,
        force=force,
        dataset='bccd',
        folds=folds,
    )
