"""Prediction for image files, volumes and arrays."""

from mmkdml.apis.prediction.answers import Answer, Prediction
from mmkdml.apis.prediction.inputs import ReadOptions
from mmkdml.apis.prediction.nifti import write_mask
from mmkdml.apis.prediction.outputs import predict_files
from mmkdml.apis.prediction.predictor import Predictor, load

__all__ = [
    'Answer',
    'Prediction',
    'Predictor',
    'ReadOptions',
    'load',
    'predict_files',
    'write_mask',
]
