"""HAM10000 (Tschandl et al. 2018): which skin lesion is it, or: where is it?"""

from __future__ import annotations

from mmkdml.datasets.base import SplitClassificationDataset, SplitSegDataset
from mmkdml.registry import DATASETS


@DATASETS.register_module()
class HAM10000Dataset(SplitClassificationDataset):
    """Dermatoscopic images, for mmpretrain; ``data_root`` is the folder given to the converter.

    The classes are in the order of their codes: akiec, bcc, bkl, df, mel, nv, vasc.
    """

    METAINFO = dict(
        classes=(
            'actinic keratosis or intraepithelial carcinoma',
            'basal cell carcinoma',
            'benign keratosis',
            'dermatofibroma',
            'melanoma',
            'melanocytic naevus',
            'vascular lesion',
        )
    )


@DATASETS.register_module()
class HAM10000SegDataset(SplitSegDataset):
    """The same images with the lesions' masks, for mmseg."""

    METAINFO = dict(classes=('background', 'lesion'), palette=[[0, 0, 0], [255, 64, 64]])
