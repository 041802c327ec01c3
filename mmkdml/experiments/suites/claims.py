"""Claims that a suite file states."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, TypeAdapter, ValidationError

from mmkdml.statistics.records import SuiteClaim

_Name = Annotated[str, Field(min_length=1)]


class _Claim(BaseModel):
    model_config = ConfigDict(extra='forbid')
    entry: _Name
    competitors: Annotated[list[_Name], Field(min_length=1)]
    measure: str = ''
    text: str = ''
    primary: StrictBool = False


_CLAIMS = TypeAdapter(list[_Claim])


def parse_claims(
    where: str, claims: Any, runs: Sequence[str], measures: Sequence[str]
) -> tuple[SuiteClaim, ...]:
    """Check the claims of a suite.

    Args:
        where: Suite file, for error messages.
        claims: List of ``dict(entry=..., competitors=[...], measure=..., text=..., primary=...)``.
            An entry is ``RUN`` or ``RUN:MEMBER``; see :class:`~.records.SuiteClaim`.
        runs: Names of the runs, with their variants.
        measures: Measures of the suite.

    Raises:
        ValueError: If a key is unknown or missing, a value has the wrong type, a run or measure is
            not of the suite, an entry is its own competitor, or a claim is stated twice.
    """
    try:
        parsed = _CLAIMS.validate_python(claims)
    except ValidationError as error:
        first = error.errors()[0]
        place = '.'.join(map(str, first['loc']))
        raise ValueError(
            f'Invalid claims{f".{place}" if place else ""} in {where}: expected a list of '
            f'dict(entry=, competitors=[...], measure=, text=, primary=), got '
            f'{first["input"]!r} ({first["msg"]})'
        ) from error
    found: dict[tuple[Any, ...], SuiteClaim] = {}
    for index, claim in enumerate(parsed):
        place = f'claims.{index} in {where}'
        names = [claim.entry, *claim.competitors]
        entry, *competitors = (_entry(place, name, runs) for name in names)
        if claim.measure and claim.measure not in measures:
            raise ValueError(
                f'Invalid measure of {place}: expected one of the suite ({", ".join(measures)}), '
                f'got {claim.measure!r}. Add it to the measures'
            )
        if len({entry, *competitors}) <= len(competitors):
            raise ValueError(f'Invalid {place}: expected each run and member once, got {names}')
        key = entry, frozenset(competitors), claim.measure
        if key in found:
            raise ValueError(f'Invalid {place}: expected each claim once, got {claim.entry} again')
        found[key] = SuiteClaim(entry, tuple(competitors), claim.measure, claim.text, claim.primary)
    return tuple(found.values())


def _entry(where: str, name: str, runs: Sequence[str]) -> tuple[str, str]:
    run, _, member = name.partition(':')
    if run not in runs:
        raise ValueError(
            f'Invalid run of {where}: expected a run of the suite ({", ".join(runs)}), got {run!r}'
        )
    return run, member
