"""Data set and loss of the project."""

from shapes.data_set import ShapesDataset, write_shapes
from shapes.loss import HuberFeatureLoss

__all__ = ['HuberFeatureLoss', 'ShapesDataset', 'write_shapes']
