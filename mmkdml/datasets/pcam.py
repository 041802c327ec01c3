"""PCam (Veeling et al. 2018): metastatic tissue in the centre of histology tiles."""

from mmkdml.datasets.base import SplitClassificationDataset
from mmkdml.registry import DATASETS


@DATASETS.register_module()
class PCamDataset(SplitClassificationDataset):
    """Tiles of 96x96 pixels, for mmpretrain; ``data_root`` is the parent folder of ``train/``."""

    METAINFO = dict(classes=('normal', 'metastasis'))
    converter = 'pcam'
