"""LGG MRI segmentation (Buda et al. 2019): where is the tumour, or: does the slice show one?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmseg.datasets import BaseSegDataset

from mmkdml.datasets.base import SplitClassificationDataset, SplitFileMixin
from mmkdml.datasets.splits import SplitRow
from mmkdml.registry import DATASETS


@DATASETS.register_module()
class LGGDataset(SplitFileMixin, BaseSegDataset):
    """Slices with their masks, for mmseg.

    Maps that mmseg's ``LoadAnnotations`` reads hold 0 (background) and 1 (tumour), from masks of
    {0, 255} and of {0, 1} alike. ``id`` and ``group`` (the patient) are there for ``meta_keys`` of
    ``PackSegInputs``.

    Args:
        ann_file: Split file, relative to the working directory.
        data_root: The folder ``kaggle_3m`` that the paths in it are relative to.
        **kwargs: As of mmseg's ``BaseSegDataset`` (``pipeline``, ``indices``, ``test_mode``...).
    """

    METAINFO = dict(classes=('background', 'tumour'), palette=[[0, 0, 0], [255, 64, 64]])

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int]:
        """What a value in a mask file stands for, where it is not the class itself.

        Raises:
            ValueError: If other classes are asked for.
        """
        if new_classes is not None and tuple(new_classes) != cls.METAINFO['classes']:
            raise ValueError(
                f'expected the classes {cls.METAINFO["classes"]}, got {tuple(new_classes)}'
            )
        return {255: 1}

    def row_info(self, row: SplitRow) -> dict[str, Any]:
        """The mask, as mmseg's ``LoadAnnotations`` wants it.

        Raises:
            ValueError: If the split file has no masks.
        """
        if row.mask is None:
            raise ValueError(
                f'{self.ann_file} has no column mask; make it with tools/dataset_converters/lgg.py'
            )
        return dict(
            seg_map_path=f'{self.data_root or "."}/{row.mask}',
            label_map=self.label_map,
            reduce_zero_label=self.reduce_zero_label,
            seg_fields=[],
        )


@DATASETS.register_module()
class LGGSliceDataset(SplitClassificationDataset):
    """Does a slice show tumour? For mmpretrain; the same split files as :class:`LGGDataset`."""

    METAINFO = dict(classes=('no tumour', 'tumour'))
