"""LGG MRI segmentation (Buda et al. 2019): tumour masks, or slices with and without tumour."""

from __future__ import annotations

from mmkdml.datasets.base import SplitClassificationDataset, SplitSegDataset
from mmkdml.registry import DATASETS


@DATASETS.register_module()
class LGGDataset(SplitSegDataset):
    """MRI slices with tumour masks, for mmseg; ``data_root`` is the folder ``kaggle_3m``."""

    METAINFO = dict(classes=('background', 'tumour'), palette=[[0, 0, 0], [255, 64, 64]])
    converter = 'lgg'


@DATASETS.register_module()
class LGGSliceDataset(SplitClassificationDataset):
    """MRI slices with and without tumour, for mmpretrain, from the same split files."""

    METAINFO = dict(classes=('no tumour', 'tumour'))
    converter = 'lgg'
