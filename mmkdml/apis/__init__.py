"""What tools and scripts call."""

from mmkdml.apis.cli import config_parser, run_tool
from mmkdml.apis.converters import run_converter
from mmkdml.apis.prediction import Answer, Prediction, Predictor, load
from mmkdml.apis.prediction_files import predict_files
from mmkdml.apis.publish import publish
from mmkdml.apis.runs import load_config, load_weights, make_runner, use_amp
from mmkdml.apis.trained import find_runs, load_trained, run_files

__all__ = [
    'Answer',
    'Prediction',
    'Predictor',
    'config_parser',
    'find_runs',
    'load',
    'load_config',
    'load_trained',
    'load_weights',
    'make_runner',
    'predict_files',
    'publish',
    'run_converter',
    'run_files',
    'run_tool',
    'use_amp',
]
