"""Data sets, split files, converters, image loading, augmentation and synthetic demo data."""

from typing import TYPE_CHECKING

import mmkdml.compat  # noqa: F401  # prepares the frameworks before they are imported
from mmkdml.datasets import converters
from mmkdml.datasets.base import SplitClassificationDataset, SplitFileMixin, SplitSegDataset
from mmkdml.datasets.chest_xray14 import ChestXray14Dataset
from mmkdml.datasets.converters import *
from mmkdml.datasets.ham10000 import HAM10000Dataset, HAM10000SegDataset
from mmkdml.datasets.image_cache import CachedLoading, cached_pipeline
from mmkdml.datasets.lgg import LGGDataset, LGGSliceDataset
from mmkdml.datasets.multi_label import SplitMultiLabelDataset
from mmkdml.datasets.pcam import PCamDataset
from mmkdml.datasets.splits import (
    SplitRow,
    assign_groups,
    balance_rows,
    fold_rows,
    read_split,
    refuse_shared_groups,
    split_rows,
    write_folds,
    write_splits,
)
from mmkdml.datasets.synthetic import make_demo_data
from mmkdml.datasets.synthetic_cells import make_demo_cells
from mmkdml.datasets.transforms import (
    AlbumentationsTransform,
    LoadBinaryMask,
    LoadCheckedImage,
    LoadClassMask,
    LoadMultiChannelImage,
)
from mmkdml.datasets.volumes.dataset import VolumeSliceDataset
from mmkdml.datasets.volumes.transforms import LoadSliceLabel, LoadVolumeSlice, NormalizeVolume
from mmkdml.lazy import lazy_exports

if TYPE_CHECKING:
    from mmkdml.datasets.boxes import BCCDDataset, HAM10000BoxDataset, SplitBoxDataset

# MMDetection takes seconds to import, and is optional.
__getattr__, __dir__, _ = lazy_exports(
    __name__, {'.boxes': ('BCCDDataset', 'HAM10000BoxDataset', 'SplitBoxDataset')}
)

__all__ = [
    'AlbumentationsTransform',
    'BCCDDataset',
    'CachedLoading',
    'ChestXray14Dataset',
    'HAM10000BoxDataset',
    'HAM10000Dataset',
    'HAM10000SegDataset',
    'LGGDataset',
    'LGGSliceDataset',
    'LoadBinaryMask',
    'LoadCheckedImage',
    'LoadClassMask',
    'LoadMultiChannelImage',
    'LoadSliceLabel',
    'LoadVolumeSlice',
    'NormalizeVolume',
    'PCamDataset',
    'SplitBoxDataset',
    'SplitClassificationDataset',
    'SplitFileMixin',
    'SplitMultiLabelDataset',
    'SplitRow',
    'SplitSegDataset',
    'VolumeSliceDataset',
    'assign_groups',
    'balance_rows',
    'cached_pipeline',
    'fold_rows',
    'make_demo_cells',
    'make_demo_data',
    'read_split',
    'refuse_shared_groups',
    'split_rows',
    'write_folds',
    'write_splits',
]
__all__ += converters.__all__
