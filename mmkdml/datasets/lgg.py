"""LGG MRI segmentation (Buda et al. 2019): where is the tumour, or: does the slice show one?"""

from __future__ import annotations

from mmkdml.datasets.base import SplitClassificationDataset, SplitSegDataset
from mmkdml.registry import DATASETS


@DATASETS.register_module()
class LGGDataset(SplitSegDataset):
    """Slices with their masks, for mmseg; ``data_root`` is the folder ``kaggle_3m``."""

    METAINFO = dict(classes=('background', 'tumour'), palette=[[0, 0, 0], [255, 64, 64]])


@DATASETS.register_module()
class LGGSliceDataset(SplitClassificationDataset):
    """Does a slice show tumour? For mmpretrain; the same split files as :class:`LGGDataset`."""

    METAINFO = dict(classes=('no tumour', 'tumour'))
