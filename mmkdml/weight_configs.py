"""Schedules of transfer weights as plain data; :mod:`mmkdml.models.weighting` computes them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmkdml.modes import STUDENTS, letters_of


def format_schedule(schedule: Sequence[Mapping[str, Any]]) -> str:
    """Format chained schedules, e.g. ``LinearWeight(start_factor=0, end=5) * ...``."""
    return ' * '.join(
        f'{type_name(one)}({", ".join(f"{k}={x!r}" for k, x in one.items() if k != "type")})'
        for one in schedule
    )


def checked_schedule(what: str, schedule: Any) -> tuple[dict[str, Any], ...]:
    """Return the configs of a schedule, or of several that are chained; None is no schedule.

    Raises:
        ValueError: If a config has no type, or a number that is negative or not finite.
    """
    listed = [schedule] if isinstance(schedule, Mapping) else schedule
    if schedule is not None and (
        not isinstance(listed, list | tuple)
        or not all(isinstance(one, Mapping) and 'type' in one for one in listed)
    ):
        raise ValueError(
            f"{what} has an invalid schedule: expected dict(type='LinearWeight', ...) or a list of "
            f'such dicts, got {schedule!r}'
        )
    for one in listed or ():
        for key, value in one.items():
            numbers = value if isinstance(value, list | tuple) else [value]
            for number in numbers:
                if isinstance(number, int | float) and not 0 <= number < math.inf:
                    raise ValueError(
                        f'{what} has an invalid schedule {type_name(one)}: expected {key} to be '
                        f'finite and at least 0, got {value!r}'
                    )
    return tuple(dict(one) for one in listed or ())


def schedules_by_student(
    mode: str, schedules: Mapping[str, Any] | None
) -> dict[str, dict[str, Any]]:
    """Return the schedules of a mode's transfers by letter and student.

    Raises:
        ValueError: If a key is not a letter of a transfer, or not a student.
    """
    letters = [letter for letter in letters_of(mode) if letter != 'alpha']
    if schedules is not None and not isinstance(schedules, Mapping):
        raise ValueError(f'weight_schedules must be a dict, got {schedules!r}')
    by_letter: dict[str, dict[str, Any]] = {}
    for letter, schedule in (schedules or {}).items():
        if letter not in letters:
            raise ValueError(
                f'The keys of weight_schedules must be weights of transfers of mode {mode!r} '
                f'({", ".join(letters)}); got {letter!r}'
            )
        by_student = isinstance(schedule, Mapping) and not {'type'} & schedule.keys()
        own = dict(schedule) if by_student else dict.fromkeys(STUDENTS, schedule)
        if not own.keys() <= set(STUDENTS):
            raise ValueError(
                f"weight_schedules.{letter} must be a schedule such as dict(type='LinearWeight', "
                f'end=5), a list of them, or a dict by {" and ".join(STUDENTS)}; got {schedule!r}'
            )
        by_letter[letter] = own
    return by_letter


def type_name(config_or_module: Any) -> str:
    """Return the name of the class of a module, or of the ``type`` of its config."""
    kind = (
        config_or_module.get('type', 'untyped')
        if isinstance(config_or_module, Mapping)
        else type(config_or_module)
    )
    return kind if isinstance(kind, str) else getattr(kind, '__name__', repr(kind))
