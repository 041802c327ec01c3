"""What tools and scripts call."""

from mmkdml.apis.cli.common import config_parser, run_tool
from mmkdml.apis.cli.converters import run_converter
from mmkdml.apis.export.publish import publish
from mmkdml.apis.prediction.inputs import ReadOptions
from mmkdml.apis.prediction.outputs import predict_files
from mmkdml.apis.prediction.predictor import Answer, Prediction, Predictor, load
from mmkdml.apis.prediction.volumes import write_mask
from mmkdml.apis.run_checkpoints import newest_checkpoint
from mmkdml.apis.runs import (
    load_config,
    load_weights,
    make_runner,
    use_amp,
    use_deterministic,
    use_fast,
)
from mmkdml.apis.trained import find_runs, load_trained, run_files, split_run

__all__ = [
    'Answer',
    'Prediction',
    'Predictor',
    'ReadOptions',
    'config_parser',
    'find_runs',
    'load',
    'load_config',
    'load_trained',
    'load_weights',
    'make_runner',
    'newest_checkpoint',
    'predict_files',
    'publish',
    'run_converter',
    'run_files',
    'run_tool',
    'split_run',
    'use_amp',
    'use_deterministic',
    'use_fast',
    'write_mask',
]
