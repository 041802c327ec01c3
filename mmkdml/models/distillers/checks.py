"""What a classroom's names and roles must be."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mmkdml.models.transfers import Transfer


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
        if not math.isfinite(weight) or weight < 0:
            raise ValueError(
                f'The supervised weight of {name} must be finite and at least 0, got {weight}'
            )
