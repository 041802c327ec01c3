"""Schema of the run metadata that reports need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, NonNegativeInt, TypeAdapter

from mmkdml.statistics.records import RunRecord

_Number = Annotated[int, Field(gt=0, lt=1 << 63)]


@dataclass(frozen=True)
class _Size:
    parameters: _Number
    flops: _Number


@dataclass(frozen=True)
class _Epochs:
    best: NonNegativeInt
    last: NonNegativeInt


@dataclass(frozen=True)
class _Metadata:
    config: str
    config_text: str
    command: str
    seconds: Annotated[float, Field(ge=0, lt=1e12)]
    device: str
    versions: dict[str, str]
    splits: dict[str, dict[str, NonNegativeInt]]
    input_size: tuple[_Number, _Number]
    members: dict[str, _Size]
    checkpoints: _Epochs


_SCHEMA = TypeAdapter(_Metadata)


def check_metadata(run: RunRecord) -> None:
    """Check the metadata of a finished run.

    Raises:
        ValueError: If an entry is missing or invalid; the message names it.
    """
    try:
        _SCHEMA.validate_python(run.metadata)
    except ValueError as error:
        raise ValueError(f'Invalid metadata of {run.name}, seed {run.seed}: {error}') from error
