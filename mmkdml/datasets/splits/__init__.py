"""Split files: reading, writing, dividing images into splits, and checks."""

from mmkdml.datasets.splits.accepting import accept_splits
from mmkdml.datasets.splits.split_checks import refuse_shared_groups
from mmkdml.datasets.splits.split_files import read_split, split_counts, write_folds, write_splits
from mmkdml.datasets.splits.split_row import SplitRow
from mmkdml.datasets.splits.splitting import assign_groups, balance_rows, fold_rows, split_rows

__all__ = [
    'SplitRow',
    'accept_splits',
    'assign_groups',
    'balance_rows',
    'fold_rows',
    'read_split',
    'refuse_shared_groups',
    'split_counts',
    'split_rows',
    'write_folds',
    'write_splits',
]
