"""Transfers between the members of a classroom, as plain data.

A classroom is a set of named members and a list of transfers. :func:`transfers_for` returns the
lists of the paper's 4 modes x 3 styles, and :func:`format_transfers` formats a list as a table.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from prettytable import PrettyTable

from mmkdml.modes import (
    FEATURES,
    FROM_PEER,
    FROM_TEACHER,
    KNOWLEDGE,
    LETTERS,
    PREDICTIONS,
    STUDENTS,
    STYLES,
    letters_of,
)
from mmkdml.names import TEACHER
from mmkdml.weight_configs import checked_schedule, format_schedule, schedules_by_student, type_name

#: Name of a module, or several names. None: the default of the task, or logits.
Tap = str | Sequence[str] | None

#: Sides whose size both outputs of a transfer may get.
RESIZES = ('source', 'learner')
DEFAULT_LOSSES = {PREDICTIONS: 'PredictionKLLoss', FEATURES: 'FeatureMSELoss'}


@dataclass(frozen=True)
class Transfer:
    """Transfer of one kind of knowledge from a source to a learner.

    Args:
        source: Name of the member that teaches; it gets no gradient.
        learner: Name of the member that learns.
        knowledge: ``'predictions'`` (logits) or ``'features'`` (a feature map).
        weight: Weight of the loss, finite and >= 0; a transfer of weight 0 is not built. Or a
            weight that changes: ``dict(base=0.45, schedule=dict(type='LinearWeight', ...))``, with
            a schedule of :mod:`mmkdml.models.weighting` or a list of them, which are chained.
        loss: Config or module of the loss. Default: ``PredictionKLLoss`` or ``FeatureMSELoss``.
        projector: Config or module that projects the learner's output, or with ``side='source'``
            the source's; trained by this loss.
        source_tap: Dotted name of the source's module whose output is the feature map, or a list of
            names if the loss compares several. Default by task. Features only.
        learner_tap: The same for the learner.
        resize: ``'source'`` to resize the learner's map bilinearly, after the projector, to the
            height and width of the source's in every step, or ``'learner'`` for the reverse.
            Default: both must have the same size.
        schedule: Schedule of the weight, if it is not part of ``weight``.

    Attributes:
        weight: Base weight, which the schedule changes.
        schedule: Configs of the chained schedules; empty if the weight is constant.

    Raises:
        ValueError: If an argument is invalid.
    """

    source: str
    learner: str
    knowledge: str
    weight: Any
    loss: Any = None
    projector: Any = None
    source_tap: Tap = None
    learner_tap: Tap = None
    resize: str | None = None
    schedule: Any = None

    def __post_init__(self) -> None:
        for side in ('source_tap', 'learner_tap'):
            object.__setattr__(self, side, _checked_tap(side, getattr(self, side)))
        route = f'{self.source} -> {self.learner}'
        if self.knowledge not in KNOWLEDGE:
            raise ValueError(
                f'Invalid transfer {route}: knowledge must be one of {", ".join(KNOWLEDGE)}, got '
                f'{self.knowledge!r}'
            )
        if self.resize not in (None, *RESIZES):
            raise ValueError(
                f'Invalid transfer {route}: resize must be {" or ".join(RESIZES)}, the side whose '
                f'size both get, got {self.resize!r}'
            )
        if self.source == self.learner:
            raise ValueError(f'Invalid transfer {route}: expected two different members')
        self._split_weight(f'The weight of {route} ({self.knowledge})')
        if self.knowledge == PREDICTIONS and (self.source_tap or self.learner_tap):
            raise ValueError(
                f'Invalid transfer {route}: taps name feature maps, but predictions compare '
                "logits. Remove source_tap and learner_tap, or set knowledge='features'"
            )

    def _split_weight(self, what: str) -> None:
        """Set ``weight`` to the base weight, and ``schedule`` to a tuple of configs."""
        weight, schedule = self.weight, self.schedule
        if isinstance(weight, Mapping):
            if set(weight) != {'base', 'schedule'} or schedule is not None:
                raise ValueError(
                    f"{what} must be a number or dict(base=0.45, schedule=dict(type='LinearWeight',"
                    f' ...)), got {dict(weight)!r}'
                    + ('' if schedule is None else ' and another schedule')
                )
            weight, schedule = weight['base'], weight['schedule']
        check_weight(what, weight)
        object.__setattr__(self, 'weight', weight)
        object.__setattr__(self, 'schedule', checked_schedule(what, schedule))

    @property
    def is_off(self) -> bool:
        """True if the weight is 0 in every step; such a transfer is not built."""
        targets = [one.get(key, 0) for one in self.schedule for key in ('eta_min', 'eta_max')]
        return self.weight == 0 and not any(targets)

    @property
    def key(self) -> str:
        """Key of the loss in logs, e.g. ``student_1.loss_from_teacher.features``."""
        return f'{self.learner}.loss_from_{self.source}.{self.knowledge}'

    @staticmethod
    def weight_key(key: str) -> str:
        """Return the key of a weight that changes, from the key of its loss."""
        return key.replace('.loss_from_', '.weight_from_')

    def __repr__(self) -> str:
        return ' '.join(self.columns())

    def columns(self) -> tuple[str, ...]:
        """Return source, arrow, learner, knowledge, weight, loss, and other settings if any."""
        columns = [
            self.source,
            '->',
            self.learner,
            self.knowledge,
            f'{self.weight:g}',
            type_name(self.loss) if self.loss is not None else DEFAULT_LOSSES[self.knowledge],
        ]
        if self.projector is not None:
            columns.append(f'projector={type_name(self.projector)}')
        if self.source_tap or self.learner_tap:
            columns.append(f'taps={format_tap(self.source_tap)}:{format_tap(self.learner_tap)}')
        if self.resize:
            columns.append(f'resize={self.resize}')
        if self.schedule:
            columns.append(f'schedule={format_schedule(self.schedule)}')
        return tuple(columns)


def format_tap(tap: Tap) -> str:
    """Return the name of a tap, several joined by ``+``, or ``default`` for None."""
    return tap if isinstance(tap, str) else '+'.join(tap or ('default',))


def format_transfers(transfers: Sequence[Transfer]) -> str:
    """Format transfers as an aligned table, one row each."""
    rows = [transfer.columns() for transfer in transfers]
    table = PrettyTable(
        header=False, border=False, align='l', padding_width=0, right_padding_width=2
    )
    table.add_rows([list(row) for row in zip(*zip_longest(*rows, fillvalue=''), strict=True)])
    return '\n'.join(line.rstrip() for line in table.get_string().splitlines())


def transfers_for(
    mode: str,
    style: str,
    weights: Mapping[str, Sequence[float]],
    schedules: Mapping[str, Any] | None = None,
) -> list[Transfer]:
    """Return the paper's transfers for a mode and a style.

    Args:
        mode: ``'ml'``, ``'kd_off'``, ``'kd_on'`` or ``'kdml'``.
        style: ``'v1'`` predictions, ``'v2'`` features, ``'v3'`` mixed.
        weights: One weight per student by letter: ``alpha`` of the supervised loss, ``beta`` of the
            transfer from the teacher, ``gamma`` of the transfer from the peer. Letters that the
            mode does not use are omitted, None, or zero for both students.
        schedules: Schedules of the weights ``beta`` and ``gamma`` by letter, for both students or
            in a dict by student.

    Returns:
        Transfers to student_1 first, and from the teacher before the peer.

    Raises:
        ValueError: If mode, style, weights or schedules are invalid.

    Example:
        >>> from mmkdml.models import format_transfers, transfers_for
        >>> weights = dict(alpha=(0.2, 0.4), beta=(0.4, 0.3), gamma=(0.4, 0.3))
        >>> print(format_transfers(transfers_for('kdml', 'v3', weights)))
        teacher    ->  student_1  features     0.4  FeatureMSELoss
        student_2  ->  student_1  predictions  0.4  PredictionKLLoss
        teacher    ->  student_2  predictions  0.3  PredictionKLLoss
        student_1  ->  student_2  features     0.3  FeatureMSELoss
    """
    _check_name('style', style, STYLES)
    weights = checked_weights(mode, weights)
    by_learner = schedules_by_student(mode, schedules)
    transfers = []
    for index, learner in enumerate(STUDENTS):
        peer = STUDENTS[1 - index]
        for source, letter, table in ((TEACHER, 'beta', FROM_TEACHER), (peer, 'gamma', FROM_PEER)):
            if style in table[mode]:
                transfers.append(
                    Transfer(
                        source,
                        learner,
                        table[mode][style][index],
                        weights[letter][index],
                        schedule=by_learner.get(letter, {}).get(learner),
                    )
                )
    return transfers


def checked_weights(
    mode: str, weights: Mapping[str, Sequence[float]]
) -> dict[str, tuple[float, ...]]:
    """Validate weights and return those that the mode uses, as pairs of floats by letter.

    Raises:
        ValueError: If a letter is missing, unknown or unused, or a pair or weight is invalid.
    """
    used = letters_of(mode)
    if not isinstance(weights, Mapping):
        raise ValueError(f'weights must be a dict with {", ".join(used)}; got {weights!r}')
    checked = {}
    for letter, pair in weights.items():
        _check_name('A key of weights', letter, LETTERS)
        if pair is None:
            continue
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != len(STUDENTS):
            raise ValueError(
                f'{letter} must be two weights, one per student, such as {letter}=(0.4, 0.4); got '
                f'{pair!r}'
            )
        for weight in pair:
            check_weight(letter, weight)
        if letter in used:
            checked[letter] = tuple(float(weight) for weight in pair)
        elif any(pair):
            missing = 'teacher' if letter == 'beta' else 'transfer between peers'
            raise ValueError(
                f'Invalid weights of mode {mode!r}: expected {", ".join(used)}, got '
                f'{letter}={tuple(pair)}, but the mode has no {missing}. Leave {letter} out, or '
                f'set {letter}=None if the config inherits it'
            )
    missing_letters = [letter for letter in used if letter not in checked]
    if missing_letters:
        raise ValueError(
            f'Invalid weights of mode {mode!r}: expected {", ".join(used)}, missing: '
            f'{", ".join(missing_letters)}'
        )
    return checked


def _checked_tap(side: str, tap: Any) -> Tap:
    if tap is None or isinstance(tap, str):
        return tap
    if not isinstance(tap, (list, tuple)) or not tap or not all(isinstance(t, str) for t in tap):
        raise ValueError(
            f'{side} must be the dotted name of a module, or a list of such names; got {tap!r}'
        )
    return tuple(tap)


def _check_name(what: str, value: Any, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ValueError(f'{what} must be one of {", ".join(allowed)}; got {value!r}')


def check_weight(what: str, weight: Any) -> None:
    """Raise ``ValueError`` unless a weight is a finite number >= 0."""
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise ValueError(f'{what} must be a number, got {weight!r}')
    if not 0 <= weight <= sys.float_info.max:
        raise ValueError(f'{what} must be finite and at least 0, got {weight}')
