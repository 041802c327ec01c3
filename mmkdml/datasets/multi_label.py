"""Data set of images that can have several classes or none."""

from __future__ import annotations

from typing import Any

import numpy as np
from mmpretrain.datasets import BaseDataset

from mmkdml.commands import tool_command
from mmkdml.datasets.base import SplitFileMixin
from mmkdml.datasets.splits import SplitRow
from mmkdml.names import MULTI_LABEL
from mmkdml.registry import DATASETS


@DATASETS.register_module()
class SplitMultiLabelDataset(SplitFileMixin, BaseDataset):
    """Images that can have several classes or none, of a split file with labels, for mmpretrain.

    ``metainfo=dict(classes=(...))`` names the classes in the order of the logits. A sample has
    ``gt_label``, the indices of its classes, and ``gt_score``, a 1 or 0 for each class.

    Args:
        ann_file: Split file with labels, relative to the working directory.
        data_root: Folder that the paths in it are relative to.
        **kwargs: ``allow_outside`` and ``image_cache`` (see :class:`SplitFileMixin`), and arguments
            of mmpretrain's ``BaseDataset`` (``pipeline``, ``indices``, ``test_mode``...).
    """

    converter = 'multi_label'

    @classmethod
    def _load_metainfo(cls, metainfo: dict | None = None) -> dict:
        """Extend the base class: mark the data set for metrics, see :data:`MULTI_LABEL`."""
        return {**super()._load_metainfo(metainfo), MULTI_LABEL: True}

    def row_info(self, row: SplitRow) -> dict[str, Any]:
        """Return the classes as ``gt_label`` and ``gt_score``.

        Raises:
            ValueError: If the split file has no labels, or a label is not one of the classes.
        """
        if row.labels is None:
            raise ValueError(
                f'{self.ann_file}: expected a column labels, got none. Convert the data set with '
                f'{tool_command("dataset_converters/multi_label")}, or use '
                'SplitClassificationDataset'
            )
        names = tuple(self.CLASSES or ())
        if unknown := [name for name in row.labels if name not in names]:
            raise ValueError(
                f'{self.ann_file}: invalid labels of {row.id!r}: expected some of {names}, got '
                f'{unknown}. Set metainfo=dict(classes=(...)) to the classes of the data set'
            )
        score = np.array([name in row.labels for name in names], dtype=np.float32)
        return dict(gt_label=np.flatnonzero(score), gt_score=score)

    def get_cat_ids(self, idx: int) -> list[int]:
        """Return the indices of the classes of an image."""
        return self.get_data_info(idx)['gt_label'].tolist()
