"""A run's outcome as bytes."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Mapping
from io import StringIO
from typing import Any

import pandas as pd

from mmkdml.experiments.records import Measurement

# Bytes; PCam's whole test part needs some 30 MB. A thousandth of it can unpack to that much.
_LARGEST_RESULT = 1 << 30


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
    return gzip.compress(json.dumps(content, default=float).encode(), mtime=0)


def unpack_result(content: bytes) -> tuple[dict[str, Measurement], pd.DataFrame, dict[str, Any]]:
    """Measurements by checkpoint, curves and facts of a run.

    Raises:
        ValueError: If this is not what :func:`pack_result` made.
    """
    try:
        loaded = json.loads(_unzipped(content))
        measured = {
            name: Measurement(
                one['metrics'],
                pd.read_csv(
                    StringIO(one['cases']), dtype={'id': str, 'group': str}, na_filter=False
                ),
            )
            for name, one in loaded['measured'].items()
        }
        return measured, pd.read_csv(StringIO(loaded['curves'])), loaded['facts']
    except Exception as error:  # a made-up file makes zlib, json and pandas raise nearly anything
        raise ValueError(
            f'not a whole result of a run ({type(error).__name__}: {error})'
        ) from error


def _unzipped(content: bytes) -> bytes:
    stream = zlib.decompressobj(wbits=31)  # with a header of gzip
    text = stream.decompress(content, _LARGEST_RESULT)
    if stream.unconsumed_tail:
        raise ValueError(f'it holds more than {_LARGEST_RESULT >> 20} MiB')
    if not stream.eof:
        raise EOFError('it is cut short')
    return text
