"""PCam (Veeling et al. 2018): does the centre of a histology tile hold metastatic tissue?"""

from mmkdml.datasets.base import SplitClassificationDataset
from mmkdml.registry import DATASETS


@DATASETS.register_module()
class PCamDataset(SplitClassificationDataset):
    """96x96 tiles, for mmpretrain; ``data_root`` is the folder that holds ``train/``."""

    METAINFO = dict(classes=('normal', 'metastasis'))
