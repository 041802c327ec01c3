"""Validation of a classroom's arguments: names, roles, students and ensemble."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmkdml.models.ensembles import Ensemble
from mmkdml.models.tasks import Task
from mmkdml.models.transfers import Transfer, check_weight
from mmkdml.names import ENSEMBLE


@contextmanager
def reraise_as_value_error(message: str) -> Iterator[None]:
    """Convert any error in the block, such as those of the frameworks, to a ``ValueError``."""
    try:
        yield
    except Exception as error:
        # mmengine's preprocessor, which only allows gray and RGB images.
        advice = (
            '. Use MultiChannelSegDataPreProcessor' if '`mean` should have' in str(error) else ''
        )
        raise ValueError(f'{message} ({type(error).__name__}: {error}{advice})') from error


def check_kind(kind: type, expected: str, **arguments: Any) -> None:
    """Raise ``ValueError`` unless all arguments are None or of a type; strings are invalid."""
    for argument, value in arguments.items():
        if isinstance(value, str) or not isinstance(value, kind | None):
            raise ValueError(f'{argument} must be {expected}, got {value!r}')


def check_input_size(size: Any, default: tuple[int, int]) -> tuple[int, int]:
    """Return the size, or the default for None; raise ``ValueError`` if it is not a size."""
    if size is None:
        return default
    numbers = tuple(size) if isinstance(size, Sequence) else ()
    if len(numbers) != 2 or any(type(number) is not int or number < 1 for number in numbers):
        raise ValueError(f'input_size must be (H, W), two integers of at least 1; got {size!r}')
    return numbers


def as_transfer(row: Any) -> Transfer:
    """Convert a dict of arguments to a transfer; raise ``ValueError`` if it is invalid."""
    if isinstance(row, Transfer):
        return row
    try:
        return Transfer(**row)
    except TypeError as error:
        raise ValueError(
            'Invalid transfer: expected a dict with source, learner, knowledge, weight and other '
            f'arguments of Transfer, got {row!r} ({error})'
        ) from error


def check_classroom(
    members: Any,
    transfers: Any,
    supervised_weights: Any,
    frozen: Any,
    students: Any,
    reused_classifiers: Any,
) -> list[Transfer]:
    """Check the arguments of a classroom before its members are built; return its transfers."""
    check_kind(
        Mapping,
        'a dict by name',
        members=members,
        supervised_weights=supervised_weights,
        frozen=frozen,
        reused_classifiers=reused_classifiers,
    )
    check_kind(Sequence, 'a list', transfers=transfers, students=students)
    check_names(members or {})
    rows = [as_transfer(row) for row in transfers or ()]
    names = tuple(members)
    check_roles(names, rows, frozen or {}, supervised_weights or {})
    check_reuse(reused_classifiers or {}, names, frozen or {})
    check_known('students', students or (), names)
    return rows


def check_names(members: Iterable[str]) -> None:
    """Raise ``ValueError`` if there are no members, or one has an invalid name."""
    names = list(members)
    if not names:
        raise ValueError('members must have at least one member, got none')
    for name in names:
        if not str(name).isidentifier() or name == ENSEMBLE:
            raise ValueError(
                'The name of a member must be an identifier other than "ensemble", the name of the '
                f"students' combined prediction; got {name!r}"
            )


def check_known(what: str, names: Iterable[str], members: Sequence[str]) -> None:
    """Raise ``ValueError`` if a name is not the name of a member."""
    unknown = [name for name in names if name not in members]
    if unknown:
        raise ValueError(
            f'{what} must name members ({", ".join(members)}); got {", ".join(map(str, unknown))}'
        )


def check_reuse(
    reused: Mapping[str, str], members: Sequence[str], frozen: Mapping[str, Any]
) -> None:
    """Raise ``ValueError`` unless each learner reuses the classifier of a frozen member."""
    check_known('reused_classifiers', (*reused, *reused.values()), members)
    for learner, source in reused.items():
        if learner in frozen or source not in frozen:
            raise ValueError(
                f'Invalid reused_classifiers: expected a trained {learner} and a frozen {source}, '
                f'whose classifier {learner} reuses; the frozen members are: '
                f'{", ".join(frozen) or "none"}'
            )


def check_roles(
    members: Sequence[str],
    transfers: Iterable[Transfer],
    frozen: Mapping[str, Any],
    supervised_weights: Mapping[str, float],
) -> None:
    """Raise ``ValueError`` if a name is unknown, or a frozen member learns."""
    check_known('frozen', frozen, members)
    check_known('supervised_weights', supervised_weights, members)
    for transfer in transfers:
        check_known(f'The transfer {transfer}', (transfer.source, transfer.learner), members)
        if transfer.learner in frozen:
            raise ValueError(
                f'Invalid transfer {transfer}: expected a trained learner, got the frozen '
                f'{transfer.learner}'
            )
    for name, weight in supervised_weights.items():
        if name in frozen:
            raise ValueError(
                f'supervised_weights must name trained members, got the frozen {name}. Leave it out'
            )
        check_weight(f'The supervised weight of {name}', weight)


def choose_ensemble(ensemble: str | Ensemble | None, task: Task) -> Ensemble:
    """Return the ensemble by its name, or the task's default for None."""
    ensemble = ensemble or task.default_ensemble
    if callable(ensemble):
        return ensemble
    function = task.ensembles.get(ensemble) if isinstance(ensemble, str) else None
    if function is None:
        raise ValueError(
            f'ensemble must be one of {", ".join(task.ensembles)} for {task.name}, or a function; '
            f'got {ensemble!r}'
        )
    return function


def choose_students(
    students: Sequence[str] | None,
    members: Mapping[str, nn.Module],
    transfers: Iterable[Transfer],
    task: Task,
) -> tuple[str, ...]:
    """Return the students' names. Default: all learners, or all members without transfers."""
    if students is None:
        learners = {transfer.learner for transfer in transfers}
        students = [name for name in members if name in learners]
    names = tuple(students) or tuple(members)
    task.check_students({name: members[name] for name in names})
    return names
