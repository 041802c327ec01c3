"""Interpretability of trained members: CKA, Grad-CAM and hard cases."""

from mmkdml.analysis.case_figure import draw_cells, draw_runs
from mmkdml.analysis.cka import measure_cka
from mmkdml.analysis.cka_figure import draw_cka
from mmkdml.analysis.grad_cam import cam_rows, grad_cam
from mmkdml.analysis.hard_cases import choose_cases, measure_cases
from mmkdml.analysis.segmentation_rows import mask_rows
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
    'cam_rows',
    'choose_cases',
    'compression',
    'describe',
    'draw_cells',
    'draw_cka',
    'draw_runs',
    'format_suggestion',
    'format_taps',
    'grad_cam',
    'inspect_config',
    'mask_rows',
    'measure_cases',
    'measure_cka',
    'member_complexities',
    'tap_rows',
    'without_pretrained',
]
