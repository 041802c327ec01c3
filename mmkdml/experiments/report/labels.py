"""Readable names of measures, modes, members and counts."""

from __future__ import annotations

from mmkdml.modes import STUDENTS
from mmkdml.names import ENSEMBLE, PLAIN, TEACHER
from mmkdml.statistics.records import BASELINE, COMPARISON

_MODES = {
    'ml': 'Mutual learning',
    'kd_off': 'Offline KD',
    'kd_on': 'Online KD',
    'kdml': 'KD + mutual learning',
    BASELINE: 'Single network',
    COMPARISON: 'Compared method',
}
_MEMBERS = {
    TEACHER: 'Teacher',
    **{name: f'Student {place}' for place, name in enumerate(STUDENTS, 1)},
    'students': 'Students',
    ENSEMBLE: 'Ensemble',
    PLAIN: 'Network',
}
_METRICS = {
    'accuracy': 'Accuracy',
    'precision': 'Precision (mean of classes)',
    'recall': 'Sensitivity (mean of classes)',
    'fidelity/accuracy': 'Agreement with teacher (accuracy)',
    'fidelity/IoU': 'Agreement with teacher (IoU)',
    'fidelity/F1': 'Agreement with teacher (F1)',
    'fidelity/agreement': 'Agreement with teacher (pixels)',
    'fidelity/KL': 'Divergence from teacher (KL)',
    'diversity/disagreement': 'Disagreement of students',
    'diversity/error_correlation': 'Error correlation of students',
    'calibration/ECE': 'Calibration error (ECE)',
    'calibration/ECE_near_foreground': 'Calibration error near the foreground (ECE)',
}
_UNITS = {'percent': '%', '': ''}


def mode_label(mode: str) -> str:
    """Return the name of a mode, e.g. ``'Offline KD'``."""
    return _MODES.get(mode, mode)


def member_label(member: str) -> str:
    """Return the name of a member, e.g. ``'Student 1'``."""
    return _MEMBERS.get(member, member.replace('_', ' ').capitalize())


def metric_label(key: str) -> str:
    """Return the name of a measure or auxiliary metric; other keys are made readable."""
    return _METRICS.get(key) or key.replace('/', ': ').replace('_', ' ')


def unit_label(unit: str) -> str:
    """Return the symbol of a unit, e.g. ``'%'``."""
    return _UNITS.get(unit, unit)
