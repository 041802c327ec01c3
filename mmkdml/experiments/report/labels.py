"""Readable names of measures, modes, members and counts."""

from __future__ import annotations

from mmkdml.experiments.paper.claims import OPPOSITE
from mmkdml.metric_info import metric_info
from mmkdml.modes import STUDENTS
from mmkdml.names import ALL_STUDENTS, ENSEMBLE, PLAIN, TEACHER
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
    ALL_STUDENTS: 'Students',
    ENSEMBLE: 'Ensemble',
    PLAIN: 'Network',
}


def verdict_label(verdict: str) -> str:
    """Return a verdict as it is counted, e.g. ``3 contradicted``."""
    return 'contradicted' if verdict == OPPOSITE else verdict


def mode_label(mode: str) -> str:
    """Return the name of a mode, e.g. ``'Offline KD'``."""
    return _MODES.get(mode, mode)


def member_label(member: str) -> str:
    """Return the name of a member, e.g. ``'Student 1'``."""
    return _MEMBERS.get(member, member.replace('_', ' ').capitalize())


def metric_label(key: str) -> str:
    """Return the name of a measure or auxiliary metric; other keys are made readable."""
    info = metric_info(key)
    return info.title if info else key.replace('/', ': ').replace('_', ' ')
