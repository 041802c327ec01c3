"""Serialization of the result of a run."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype
from pydantic import TypeAdapter

from mmkdml.files import json_text
from mmkdml.names import CASE_VALUES, SCORE
from mmkdml.statistics.measures import COLUMNS, class_count, task_of_cases
from mmkdml.statistics.records import Measurement

RESULT = 'result.json.gz'
# 1: calibration errors in percent, and no version in the file. 2: calibration errors as fractions.
VERSION = 2
# Bytes. PCam's test split needs about 30 MB; compression is up to 1000-fold.
_MAX_BYTES = 1 << 30
_TEXTS = ('member', 'id', 'group')
_DTYPES = {column: str if column in _TEXTS else 'int64' for c in COLUMNS.values() for column in c}
_DTYPES['score'] = 'float32'
_OPTIONAL = re.compile('|'.join([*CASE_VALUES, rf'{SCORE}_\d+']))
_CURVES = ['epoch', 'key', 'value']


@dataclass(frozen=True)
class _Measured:
    metrics: dict[str, float | None]  # None for NaN, which JSON does not have
    cases: str


@dataclass(frozen=True)
class _Result:
    measured: dict[str, _Measured]
    curves: str
    facts: dict[str, Any]  # metadata; the key is part of the file format
    version: int = 1


_RESULT = TypeAdapter(_Result)


def serialize_result(
    measured: Mapping[str, Measurement], curves: pd.DataFrame, metadata: Mapping[str, Any]
) -> bytes:
    """Serialize the result of a run as compressed JSON."""
    content = dict(
        measured={
            name: dict(metrics=dict(one.metrics), cases=one.cases.to_csv(index=False))
            for name, one in measured.items()
        },
        curves=curves.to_csv(index=False),
        facts=dict(metadata),
        version=VERSION,
    )
    return gzip.compress(json_text(content).encode(), mtime=0)


def deserialize_result(
    content: bytes,
) -> tuple[dict[str, Measurement], pd.DataFrame, dict[str, Any]]:
    """Deserialize the result of a run, also of an older version.

    Returns:
        Measurements by checkpoint, curves and metadata.

    Raises:
        ValueError: If the content is not a valid result of :func:`serialize_result`, or is one of a
            newer version.
    """
    try:
        loaded = _RESULT.validate_python(json.loads(_decompress(content)))
        if not 1 <= loaded.version <= VERSION:
            raise ValueError(
                f'expected version 1 to {VERSION}, got {loaded.version}. Update mmkdml'
            )
        measured = {
            name: Measurement(
                {
                    key: math.nan if x is None else x / _divisor(key, loaded.version)
                    for key, x in one.metrics.items()
                },
                _parse_cases(one.cases),
            )
            for name, one in loaded.measured.items()
        }
        curves = _parse_curves(loaded.curves)
        if len(curves):
            curves['value'] /= [_divisor(key, loaded.version) for key in curves['key']]
        return measured, curves, loaded.facts
    except Exception as error:  # zlib, json and pandas raise many types for invalid content
        raise ValueError(f'invalid result of a run ({type(error).__name__}: {error})') from error


def _divisor(key: str, version: int) -> int:
    """Return the number by which a metric of an older version is divided."""
    return 100 if version == 1 and key.endswith('calibration/ECE') else 1


def _parse_cases(text: str) -> pd.DataFrame:
    # Optional columns: values of cases, which may be undefined, and scores of classes.
    header = text.partition('\n')[0].split(',')
    optional = [name for name in header if name not in _DTYPES and _OPTIONAL.fullmatch(name)]
    cases = pd.read_csv(
        StringIO(text), dtype=_DTYPES, na_filter=False, converters=dict.fromkeys(optional, _number)
    )
    columns = (*COLUMNS[task_of_cases(cases)], *optional)
    numbers = [column for column in columns if column not in _TEXTS]
    if (cases[numbers] < 0).any(axis=None):
        raise ValueError(f'expected no negative values of {", ".join(numbers)}')
    class_count(cases)  # raises if there are too many classes
    return cases


def _number(text: str) -> float:
    return float(text or 'nan')


def _parse_curves(text: str) -> pd.DataFrame:
    # Missing values are NaN, keys are text. float() is exact, unlike the parser of some pandas.
    curves = pd.read_csv(
        StringIO(text), dtype={'key': str}, keep_default_na=False, converters={'value': _number}
    )
    numeric = [column for column in curves if is_numeric_dtype(curves[column])]
    if [*curves] != _CURVES or (len(curves) and numeric != ['epoch', 'value']):
        raise ValueError(
            f'expected curves with columns {_CURVES}, all but key numeric, got {[*curves]}'
        )
    return curves


def _decompress(content: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)  # with a gzip header
    text = stream.decompress(content, _MAX_BYTES)
    if stream.unconsumed_tail:
        raise ValueError(f'more than {_MAX_BYTES >> 20} MiB after decompression')
    if not stream.eof:
        raise EOFError('truncated')
    return text
