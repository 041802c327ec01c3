"""Modes and styles of the paper as plain data."""

from __future__ import annotations

PREDICTIONS = 'predictions'
FEATURES = 'features'
KNOWLEDGE = (PREDICTIONS, FEATURES)

STUDENTS = ('student_1', 'student_2')

_P, _F = PREDICTIONS, FEATURES
# Knowledge that (student_1, student_2) receive; Table 5, eq. 6 and 7 of the paper. In KD+ML v3 each
# student receives both kinds, one from the teacher and the other from its peer.
FROM_TEACHER = {
    'ml': {},
    'kd_off': {'v1': (_P, _P), 'v2': (_F, _F), 'v3': (_P, _F)},
    'kd_on': {'v1': (_P, _P), 'v2': (_F, _F), 'v3': (_P, _F)},
    'kdml': {'v1': (_P, _P), 'v2': (_F, _F), 'v3': (_F, _P)},
}
FROM_PEER = {
    'ml': {'v1': (_P, _P), 'v2': (_F, _F), 'v3': (_P, _F)},
    'kd_off': {},
    'kd_on': {},
    'kdml': {'v1': (_P, _P), 'v2': (_F, _F), 'v3': (_P, _F)},
}
MODES = tuple(FROM_TEACHER)
STYLES = ('v1', 'v2', 'v3')
LETTERS = ('alpha', 'beta', 'gamma')


def letters_of(mode: str) -> tuple[str, ...]:
    """Return the letters of the weights that a mode uses, e.g. ``('alpha', 'gamma')`` for ``'ml'``.

    Raises:
        ValueError: If the mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f'mode must be one of {", ".join(MODES)}; got {mode!r}')
    used = {'alpha': True, 'beta': FROM_TEACHER[mode], 'gamma': FROM_PEER[mode]}
    return tuple(letter for letter in LETTERS if used[letter])
