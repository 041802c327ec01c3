"""Command-line arguments and exit codes shared by the tools; imports no framework."""

from mmkdml.apis.cli.common import add_cfg_options, config_parser, leave_process_group, run_tool
from mmkdml.apis.cli.converters import run_converter

__all__ = ['add_cfg_options', 'config_parser', 'leave_process_group', 'run_converter', 'run_tool']
