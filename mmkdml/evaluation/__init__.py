"""Metrics of every member and of the ensemble, and figures of masks and calibration."""

from typing import TYPE_CHECKING

import mmkdml.compat  # noqa: F401  # prepares the frameworks before they are imported
from mmkdml.evaluation.auroc import MultiLabelAUROC
from mmkdml.evaluation.calibration import Calibration
from mmkdml.evaluation.case_table import CaseTable
from mmkdml.evaluation.clinical.classification import ClinicalClassification
from mmkdml.evaluation.clinical.segmentation import ClinicalSegmentation
from mmkdml.evaluation.confusion import ConfusionMatrix
from mmkdml.evaluation.diversity import Diversity
from mmkdml.evaluation.fidelity import Fidelity
from mmkdml.evaluation.foreground import ForegroundIoU
from mmkdml.evaluation.macro import MacroPrecisionRecall
from mmkdml.evaluation.member_metrics import MemberMetrics, members_in_order
from mmkdml.evaluation.spreadsheets import csv_text
from mmkdml.lazy import lazy_exports

if TYPE_CHECKING:
    from mmkdml.evaluation.boxes.ap import BoxAP
    from mmkdml.evaluation.mask_panels import Panel, draw_panel, draw_sheet
    from mmkdml.evaluation.reliability import draw_reliability

# Imports mmdet or matplotlib.
__getattr__, __dir__, _ = lazy_exports(
    __name__,
    {
        '.boxes.ap': ['BoxAP'],
        '.mask_panels': ['Panel', 'draw_panel', 'draw_sheet'],
        '.reliability': ['draw_reliability'],
    },
)

__all__ = [
    'BoxAP',
    'Calibration',
    'CaseTable',
    'ClinicalClassification',
    'ClinicalSegmentation',
    'ConfusionMatrix',
    'Diversity',
    'Fidelity',
    'ForegroundIoU',
    'MacroPrecisionRecall',
    'MemberMetrics',
    'MultiLabelAUROC',
    'Panel',
    'csv_text',
    'draw_panel',
    'draw_reliability',
    'draw_sheet',
    'members_in_order',
]
