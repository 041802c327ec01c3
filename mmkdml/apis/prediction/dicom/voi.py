"""Windows and lookup tables (VOI) with which a DICOM file is displayed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmkdml.apis.prediction.dicom.frames import Frame
from mmkdml.apis.prediction.volume import require_medical


class Voi(NamedTuple):
    """Values of interest (DICOM PS3.3 C.11.2).

    Attributes:
        low: Value that becomes black, after ``apply``.
        high: Value that becomes white, after ``apply``.
        apply: Maps rescaled values, if the mapping is not linear.
    """

    low: float
    high: float
    apply: Callable[[np.ndarray], np.ndarray] | None = None


def own_voi(frames: Sequence[Frame]) -> Voi | None:
    """Return the values of interest that the frames share; None unless all agree.

    A lookup table is preferred to a window, as pydicom does, and the first of several is used.
    """
    kinds = {_key(frame.voi) for frame in frames}
    if len(kinds) > 1:
        return None
    table, center, width, function = kinds.pop()
    if table is not None:
        return _lookup(frames[0].voi, bits=table[0][2])
    if function == 'SIGMOID':
        if width <= 0 or not math.isfinite(center) or not math.isfinite(width):
            return None
        return Voi(0, 1, lambda values: _sigmoid(values, center, width))
    if function == 'LINEAR_EXACT':
        low, high = center - width / 2, center + width / 2
    elif width <= 1:
        return None
    else:
        low, high = center - 0.5 - (width - 1) / 2, center - 0.5 + (width - 1) / 2
    # Huge centers cancel the width.
    return Voi(low, high) if 0 < high - low < math.inf else None


def _key(voi: Any) -> tuple[Any, float, float, str]:
    """Return the table (descriptor, data), center, width and function of a frame."""
    if voi.get('VOILUTSequence'):
        item = voi.VOILUTSequence[0]
        data = item['LUTData'].value
        table = tuple(item.LUTDescriptor), data if isinstance(data, bytes) else tuple(data)
        return table, 0.0, 0.0, ''
    values = [voi.get(key) or 0 for key in ('WindowCenter', 'WindowWidth')]
    center, width = (float(np.atleast_1d(value)[0]) for value in values)
    return None, center, width, voi.get('VOILUTFunction') or 'LINEAR'


def _lookup(voi: Any, bits: int) -> Voi:
    pydicom = require_medical('pydicom')

    def apply(values: np.ndarray) -> np.ndarray:
        found = pydicom.pixels.apply_voi(np.rint(values).astype(np.int32), voi)
        return np.asarray(found, dtype=np.float32)

    return Voi(0, 2**bits - 1, apply)


def _sigmoid(values: np.ndarray, center: float, width: float) -> np.ndarray:
    with np.errstate(over='ignore'):  # exp(inf) becomes 0
        shares = 1 / (1 + np.exp(-4 * (values.astype(np.float64) - center) / width))
    return shares.astype(np.float32)
