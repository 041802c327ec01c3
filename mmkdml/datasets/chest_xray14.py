"""ChestX-ray14 of the NIH (Wang et al. 2017): findings in chest X-rays."""

from __future__ import annotations

from mmkdml.datasets.multi_label import SplitMultiLabelDataset
from mmkdml.registry import DATASETS


@DATASETS.register_module()
class ChestXray14Dataset(SplitMultiLabelDataset):
    """Frontal chest X-rays with any of 14 findings, for mmpretrain.

    ``data_root`` is the source folder of the converter. Findings were extracted from reports; the
    order of the classes is that of the paper.
    """

    METAINFO = dict(
        classes=(
            'Atelectasis',
            'Cardiomegaly',
            'Effusion',
            'Infiltration',
            'Mass',
            'Nodule',
            'Pneumonia',
            'Pneumothorax',
            'Consolidation',
            'Edema',
            'Emphysema',
            'Fibrosis',
            'Pleural_Thickening',
            'Hernia',
        )
    )
