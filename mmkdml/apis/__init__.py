"""Functions and classes for tools and scripts: training, testing, prediction and export."""

from typing import TYPE_CHECKING

from mmkdml.lazy import lazy_exports

if TYPE_CHECKING:
    from mmkdml.apis.cli.common import config_parser, run_tool
    from mmkdml.apis.cli.converters import run_converter
    from mmkdml.apis.export.publish import publish
    from mmkdml.apis.export.run import ExportResult, export_run
    from mmkdml.apis.folds import set_fold
    from mmkdml.apis.prediction.answers import Answer, Prediction
    from mmkdml.apis.prediction.fold_predictor import FoldPredictor, find_fold_runs
    from mmkdml.apis.prediction.inputs import ReadOptions
    from mmkdml.apis.prediction.nifti import write_mask
    from mmkdml.apis.prediction.outputs import predict_files
    from mmkdml.apis.prediction.predictor import Predictor, load
    from mmkdml.apis.run.checkpoints import newest_checkpoint
    from mmkdml.apis.run.config import load_config, load_run
    from mmkdml.apis.run.results import load_results
    from mmkdml.apis.runs import load_weights, make_runner, use_amp, use_deterministic, use_fast
    from mmkdml.apis.summary.page import write_summary
    from mmkdml.apis.trained import find_runs, load_trained, run_files, split_run

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        '.cli.common': ['config_parser', 'run_tool'],
        '.cli.converters': ['run_converter'],
        '.export.publish': ['publish'],
        '.export.run': ['ExportResult', 'export_run'],
        '.folds': ['set_fold'],
        '.prediction.answers': ['Answer', 'Prediction'],
        '.prediction.fold_predictor': ['FoldPredictor', 'find_fold_runs'],
        '.prediction.inputs': ['ReadOptions'],
        '.prediction.outputs': ['predict_files'],
        '.prediction.predictor': ['Predictor', 'load'],
        '.prediction.nifti': ['write_mask'],
        '.run.checkpoints': ['newest_checkpoint'],
        '.run.config': ['load_config', 'load_run'],
        '.run.results': ['load_results'],
        '.runs': [*('load_weights', 'make_runner'), *('use_amp', 'use_deterministic', 'use_fast')],
        '.summary.page': ['write_summary'],
        '.trained': ['find_runs', 'load_trained', 'run_files', 'split_run'],
    },
)
