"""Quantization of ONNX files to int8."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from mmkdml.apis.export.graph import INPUT
from mmkdml.optional import require

_require = partial(require, extra='export', purpose='int8')


def quantize(path: Path, out: Path, images: Iterable[np.ndarray]) -> None:
    """Quantize the convolutions and matrix products of an ONNX model statically to int8.

    Weights are scaled per channel, to 7 bits: CPUs without VNNI instructions add pairs of products
    of 8-bit numbers in saturating 16-bit arithmetic, which overflows with 8-bit weights.

    Args:
        path: File of :func:`~mmkdml.apis.export.graph.write_onnx`.
        out: File to write.
        images: Calibration images, each (C, H, W), from outside of the test set.
    """
    quantization = _require('onnxruntime.quantization')
    prepared = out.with_suffix('.prepared.onnx')
    try:
        _require('onnxruntime.quantization.shape_inference').quant_pre_process(
            str(path), str(prepared), skip_symbolic_shape=True
        )
        quantization.quantize_static(
            str(prepared),
            str(out),
            _Calibration(images),
            op_types_to_quantize=['Conv', 'Gemm', 'MatMul'],
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            reduce_range=True,
        )
    finally:
        prepared.unlink(missing_ok=True)


class _Calibration:
    """Calibration data reader of onnxruntime."""

    def __init__(self, images: Iterable[np.ndarray]) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next input; None after the last one."""
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}
