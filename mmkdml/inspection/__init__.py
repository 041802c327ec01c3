"""Inspection of configs: members, transfers, parameters, FLOPs and taps."""

from mmkdml.inspection.complexity import (
    MemberComplexity,
    compression,
    describe,
    member_complexities,
)
from mmkdml.inspection.config import Inspection, inspect_config, without_pretrained
from mmkdml.inspection.taps_listing import TapRow, format_suggestion, format_taps, tap_rows

__all__ = [
    'Inspection',
    'MemberComplexity',
    'TapRow',
    'compression',
    'describe',
    'format_suggestion',
    'format_taps',
    'inspect_config',
    'member_complexities',
    'tap_rows',
    'without_pretrained',
]
