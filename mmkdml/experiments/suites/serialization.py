"""A run's outcome as bytes."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pydantic import TypeAdapter

from mmkdml.files import json_text
from mmkdml.statistics.measures import COLUMNS, class_count, task_of_cases
from mmkdml.statistics.records import Measurement

# Bytes; PCam's whole test part needs some 30 MB. A thousandth of it can unpack to that much.
_LARGEST_RESULT = 1 << 30
_TEXTS = ('member', 'id', 'group')
_DTYPES = {column: str if column in _TEXTS else 'int64' for c in COLUMNS.values() for column in c}
_CURVES = ['epoch', 'key', 'value']


@dataclass(frozen=True)
class _Measured:
    metrics: dict[str, float | None]  # None for NaN, which JSON does not have
    cases: str


@dataclass(frozen=True)
class _Result:
    measured: dict[str, _Measured]
    curves: str
    facts: dict[str, Any]


_FORM = TypeAdapter(_Result)


def pack_result(
    measured: Mapping[str, Measurement], curves: pd.DataFrame, facts: Mapping[str, Any]
) -> bytes:
    """A run's outcome as compressed JSON, for :func:`unpack_result`."""
    content = dict(
        measured={
            name: dict(metrics=dict(one.metrics), cases=one.cases.to_csv(index=False))
            for name, one in measured.items()
        },
        curves=curves.to_csv(index=False),
        facts=dict(facts),
    )
    return gzip.compress(json_text(content).encode(), mtime=0)


def unpack_result(content: bytes) -> tuple[dict[str, Measurement], pd.DataFrame, dict[str, Any]]:
    """Measurements by checkpoint, curves and facts of a run.

    Raises:
        ValueError: If this is not what :func:`pack_result` made.
    """
    try:
        loaded = _FORM.validate_python(json.loads(_unzipped(content)))
        measured = {
            name: Measurement(
                {key: math.nan if x is None else x for key, x in one.metrics.items()},
                _cases(one.cases),
            )
            for name, one in loaded.measured.items()
        }
        return measured, _curves(loaded.curves), loaded.facts
    except Exception as error:  # a made-up file makes zlib, json and pandas raise nearly anything
        raise ValueError(
            f'not a whole result of a run ({type(error).__name__}: {error})'
        ) from error


def _cases(text: str) -> pd.DataFrame:
    cases = pd.read_csv(StringIO(text), dtype=_DTYPES, na_filter=False)
    numbers = [column for column in COLUMNS[task_of_cases(cases)] if column not in _TEXTS]
    if (cases[numbers] < 0).any(axis=None):
        raise ValueError(f'expected {", ".join(numbers)} of 0 or more in all cases')
    class_count(cases)  # refuses more than there can be
    return cases


def _curves(text: str) -> pd.DataFrame:
    # An empty value is none; a key is a text, whatever it says. Not all pandas read floats exactly.
    curves = pd.read_csv(
        StringIO(text),
        dtype={'key': str},
        keep_default_na=False,
        converters={'value': lambda value: float(value or 'nan')},
    )
    numeric = [column for column in curves if is_numeric_dtype(curves[column])]
    if [*curves] != _CURVES or (len(curves) and numeric != ['epoch', 'value']):
        raise ValueError(f'expected curves of {", ".join(_CURVES)} with numbers, got {[*curves]}')
    return curves


def _unzipped(content: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)  # with a header of gzip
    text = stream.decompress(content, _LARGEST_RESULT)
    if stream.unconsumed_tail:
        raise ValueError(f'it holds more than {_LARGEST_RESULT >> 20} MiB')
    if not stream.eof:
        raise EOFError('it is cut short')
    return text
