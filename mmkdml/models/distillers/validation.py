"""What a classroom's names and roles must be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from mmkdml.models.ensembles import ENSEMBLES, Ensemble
from mmkdml.models.tasks import Task
from mmkdml.models.transfers import Transfer, check_weight


@contextmanager
def reraise_as_value_error(what: str) -> Iterator[None]:
    """Makes of what goes wrong in the networks' own code an error that says where it was.

    Raises:
        ValueError: In place of any other error.
    """
    try:
        yield
    except Exception as error:  # a setting that does not fit makes them raise nearly anything
        raise ValueError(f'{what} ({type(error).__name__}: {error})') from error


def check_kind(kind: type, name: str, **arguments: Any) -> None:
    """Raises ``ValueError`` if one of the arguments is neither None nor of a kind.

    Args:
        kind: Such as ``Mapping``; texts are of no kind.
        name: What users call it, ``'a list'``.
        **arguments: The values, by name.
    """
    for argument, value in arguments.items():
        if isinstance(value, str) or not isinstance(value, kind | None):
            raise ValueError(f'{argument} must be {name}, got {value!r}')


def check_input_size(size: Any) -> tuple[int, int]:
    """The size as a tuple; raises ``ValueError`` unless it is two whole numbers above 0."""
    numbers = tuple(size) if isinstance(size, Sequence) else ()
    if len(numbers) != 2 or any(type(number) is not int or number < 1 for number in numbers):
        raise ValueError(
            f'input_size must be (H, W), two whole numbers of at least 1; got {size!r}'
        )
    return numbers


def as_transfer(row: Any) -> Transfer:
    """A row of the plan; raises ``ValueError`` if it cannot be one."""
    if isinstance(row, Transfer):
        return row
    try:
        return Transfer(**row)
    except TypeError as error:
        raise ValueError(
            f'A transfer must be a dict with source, learner, knowledge, weight and others that '
            f'Transfer has: {error}; got {row!r}'
        ) from error


def check_names(members: Iterable[str]) -> None:
    """Raises ``ValueError`` if there are no members, or one has a name that cannot be."""
    names = list(members)
    if not names:
        raise ValueError('A classroom needs at least one member, got none')
    for name in names:
        if not str(name).isidentifier() or name == 'ensemble':
            raise ValueError(
                'The name of a member must be an identifier other than "ensemble", which names '
                f"the students' common answer; got {name!r}"
            )


def check_known(what: str, names: Iterable[str], members: Sequence[str]) -> None:
    """Raises ``ValueError`` if ``names`` has one that is no member's."""
    unknown = [name for name in names if name not in members]
    if unknown:
        raise ValueError(
            f'{what} must name members ({", ".join(members)}); got {", ".join(map(str, unknown))}'
        )


def check_reuse(
    reused: Mapping[str, str], members: Sequence[str], frozen: Mapping[str, Any]
) -> None:
    """Raises ``ValueError`` if a classifier is reused by or of a member that cannot be."""
    check_known('reused_classifiers', (*reused, *reused.values()), members)
    for learner, source in reused.items():
        if learner in frozen or source not in frozen:
            raise ValueError(
                f'{learner} can only answer with the classifier of {source} if {source} is frozen '
                f'and {learner} learns: it must have been trained before. The frozen members are: '
                f'{", ".join(frozen) or "none"}'
            )


def check_roles(
    members: Sequence[str],
    transfers: Iterable[Transfer],
    frozen: Mapping[str, Any],
    supervised_weights: Mapping[str, float],
) -> None:
    """Raises ``ValueError`` if a role is given to no member, or to one that cannot have it."""
    check_known('frozen', frozen, members)
    check_known('supervised_weights', supervised_weights, members)
    for transfer in transfers:
        check_known(f'The transfer {transfer}', (transfer.source, transfer.learner), members)
        if transfer.learner in frozen:
            raise ValueError(
                f'{transfer.learner} is frozen and cannot learn in the transfer {transfer}'
            )
    for name, weight in supervised_weights.items():
        if name in frozen:
            raise ValueError(f'{name} is frozen and has no supervised loss to weight')
        check_weight(f'The supervised weight of {name}', weight)


def checked_ensemble(ensemble: str | Ensemble | None, task: Task) -> Ensemble:
    """The ensemble by its name, or the task's default; raises ``ValueError`` if there is none."""
    ensemble = ensemble or task.default_ensemble
    if callable(ensemble):
        return ensemble
    if ensemble not in task.ensembles:
        raise ValueError(
            f'ensemble must be one of {", ".join(task.ensembles)} for {task.name}, or a function; '
            f'got {ensemble!r}'
        )
    return ENSEMBLES[ensemble]


def chosen_students(
    students: Sequence[str] | None,
    members: Mapping[str, nn.Module],
    transfers: Iterable[Transfer],
    task: Task,
) -> tuple[str, ...]:
    """Names of the students: as given, or all learners, or all members without transfers.

    Raises:
        ValueError: If a name is not a member's, or the task has no ensemble of these members.
    """
    if students is None:
        learners = {transfer.learner for transfer in transfers}
        students = [name for name in members if name in learners]
    names = tuple(students) or tuple(members)
    check_known('students', names, tuple(members))
    task.check_students({name: members[name] for name in names})
    return names
