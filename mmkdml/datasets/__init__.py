"""Data sets, their split files and converters, made-up demo data and augmentation."""

from mmkdml.datasets.base import SplitClassificationDataset, SplitFileMixin
from mmkdml.datasets.converters import convert_lgg, convert_pcam, lgg_rows, pcam_rows
from mmkdml.datasets.lgg import LGGDataset, LGGSliceDataset
from mmkdml.datasets.pcam import PCamDataset
from mmkdml.datasets.splits import (
    SplitRow,
    assign_groups,
    read_split,
    refuse_shared_groups,
    split_rows,
    write_splits,
)
from mmkdml.datasets.synthetic import make_demo_data
from mmkdml.datasets.transforms import AlbumentationsTransform

__all__ = [
    'AlbumentationsTransform',
    'LGGDataset',
    'LGGSliceDataset',
    'PCamDataset',
    'SplitClassificationDataset',
    'SplitFileMixin',
    'SplitRow',
    'assign_groups',
    'convert_lgg',
    'convert_pcam',
    'lgg_rows',
    'make_demo_data',
    'pcam_rows',
    'read_split',
    'refuse_shared_groups',
    'split_rows',
    'write_splits',
]
