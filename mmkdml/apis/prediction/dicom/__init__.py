"""DICOM: series, multi-frame files and radiographs as input, segmentation objects as output."""

from mmkdml.apis.prediction.dicom.read import read_dicom
from mmkdml.apis.prediction.dicom.segmentation import SegmentationError, write_segmentation
from mmkdml.apis.prediction.dicom.segments import Segment, Segments, read_segments
from mmkdml.apis.prediction.dicom.series import is_dicom, split_series

__all__ = [
    'Segment',
    'SegmentationError',
    'Segments',
    'is_dicom',
    'read_dicom',
    'read_segments',
    'split_series',
    'write_segmentation',
]
