"""Metrics of every member and of the ensemble, and pictures of their masks."""

from mmkdml.evaluation.case_table import CaseTable
from mmkdml.evaluation.foreground import ForegroundIoU
from mmkdml.evaluation.member_metrics import MemberMetrics, members_in_order
from mmkdml.evaluation.panels import Panel, draw_panel, draw_sheet

__all__ = [
    'CaseTable',
    'ForegroundIoU',
    'MemberMetrics',
    'Panel',
    'draw_panel',
    'draw_sheet',
    'members_in_order',
]
