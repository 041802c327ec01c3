"""HAM10000 (Tschandl et al. 2018): classification and segmentation of skin lesions."""

from __future__ import annotations

from mmkdml.datasets.base import SplitClassificationDataset, SplitSegDataset
from mmkdml.registry import DATASETS


@DATASETS.register_module()
class HAM10000Dataset(SplitClassificationDataset):
    """Dermatoscopic images with one of seven diagnoses, for mmpretrain.

    ``data_root`` is the source folder of the converter. The order of the classes is that of their
    codes: akiec, bcc, bkl, df, mel, nv, vasc.
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
    converter = 'ham10000 --task cls'


@DATASETS.register_module()
class HAM10000SegDataset(SplitSegDataset):
    """Dermatoscopic images with masks of the lesion, for mmseg."""

    METAINFO = dict(classes=('background', 'lesion'), palette=[[0, 0, 0], [255, 64, 64]])
    converter = 'ham10000 --task seg'
