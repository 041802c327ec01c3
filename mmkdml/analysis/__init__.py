"""What a classroom is made of, and what its networks are like inside."""

from mmkdml.analysis.case_figure import draw_cells, draw_runs, mask_rows
from mmkdml.analysis.cka import measure_cka
from mmkdml.analysis.cka_figure import draw_cka
from mmkdml.analysis.complexity import MemberComplexity, compression, describe, member_complexities
from mmkdml.analysis.grad_cam import cam_rows, grad_cam
from mmkdml.analysis.hard_cases import choose_cases, measure_cases
from mmkdml.analysis.inspection import Inspection, inspect_config, without_pretrained
from mmkdml.analysis.offline_cost import OfflineCost, format_offline_cost, measure_offline
from mmkdml.analysis.peers import PeerCost, format_peer_costs, measure_peers
from mmkdml.analysis.precision_cost import PrecisionCost, format_precisions, measure_precisions
from mmkdml.analysis.step_cost import (
    MethodCost,
    StepCost,
    format_costs,
    format_method_costs,
    measure_methods,
    measure_steps,
)
from mmkdml.analysis.student_cost import StudentCost, format_students, measure_students
from mmkdml.analysis.taps_listing import TapRow, format_suggestion, format_taps, tap_rows

__all__ = [
    'Inspection',
    'MemberComplexity',
    'MethodCost',
    'OfflineCost',
    'PeerCost',
    'PrecisionCost',
    'StepCost',
    'StudentCost',
    'TapRow',
    'cam_rows',
    'choose_cases',
    'compression',
    'describe',
    'draw_cells',
    'draw_cka',
    'draw_runs',
    'format_costs',
    'format_method_costs',
    'format_offline_cost',
    'format_peer_costs',
    'format_precisions',
    'format_students',
    'format_suggestion',
    'format_taps',
    'grad_cam',
    'inspect_config',
    'mask_rows',
    'measure_cases',
    'measure_cka',
    'measure_methods',
    'measure_offline',
    'measure_peers',
    'measure_precisions',
    'measure_steps',
    'measure_students',
    'member_complexities',
    'tap_rows',
    'without_pretrained',
]
