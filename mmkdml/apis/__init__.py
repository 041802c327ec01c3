"""What tools and scripts call."""

from mmkdml.apis.cli import config_parser, run_tool
from mmkdml.apis.converters import run_converter
from mmkdml.apis.publish import publish
from mmkdml.apis.runs import load_config, load_weights, make_runner, use_amp

__all__ = [
    'config_parser',
    'load_config',
    'load_weights',
    'make_runner',
    'publish',
    'run_converter',
    'run_tool',
    'use_amp',
]
