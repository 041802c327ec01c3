"""Export formats: a plain checkpoint, ONNX and ``torch.export``."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from mmkdml.apis.export.agreement import Agreement
from mmkdml.apis.export.checkpoint import checkpoint_predictor, write_checkpoint
from mmkdml.apis.export.checks import compare, framework_predictor, latencies
from mmkdml.apis.export.graph import (
    PredictFn,
    check_sizes,
    export_program,
    exported_network,
    file_predictor,
    network_predictor,
    write_onnx,
)
from mmkdml.apis.export.quantization import quantize
from mmkdml.apis.export.source import ExportSource
from mmkdml.names import TEACHER

CHECKPOINT, ONNX, TORCH_EXPORT = FORMATS = ('checkpoint', 'onnx', 'torch-export')
INT8 = 'int8'
IN_PYTORCH, TEACHER_IN_PYTORCH = 'in PyTorch', 'teacher in PyTorch'


@dataclass(frozen=True)
class Exported:
    """Exported files.

    Attributes:
        predictors: Predictors of the written files; the first is that of the format itself.
        agreement: Agreement of the format with PyTorch.
        needs: Classes of other packages that a checkpoint needs, as ``package.Class``.
    """

    predictors: dict[str, PredictFn]
    agreement: Agreement
    needs: tuple[str, ...] = ()


def export(
    source: ExportSource,
    folder: Path,
    form: str,
    images: Sequence[np.ndarray],
    calibration: Iterable[np.ndarray] | None = None,
) -> Exported:
    """Write networks to a folder, load them again and compare them with PyTorch.

    Args:
        source: Networks to export.
        folder: Existing folder to write to; see :func:`new_folder`.
        form: ``'checkpoint'``, ``'onnx'`` or ``'torch-export'``.
        images: Images to compare on, each (C, H, W); three channels are RGB.
        calibration: Calibration images of an int8 model, which is also written. Only for ONNX.

    Raises:
        ValueError: If the format is unknown or does not support the networks or images, a package
            is missing, or the predictions differ.
    """
    if form not in FORMATS:
        raise ValueError(f'Invalid format: expected one of {", ".join(FORMATS)}, got {form!r}')
    if calibration is not None and form != ONNX:
        raise ValueError(f'int8: expected the format {ONNX}, got {form}')
    if source.nms and form != ONNX:
        raise ValueError(f'nms: expected the format {ONNX}, got {form}. Remove --nms')
    if form == CHECKPOINT:
        path, needs = write_checkpoint(source, folder)
        if source.detects:  # mmdet selects boxes
            source = dataclasses.replace(source, nms=True)
        predict = checkpoint_predictor(path, source)
        return Exported({form: predict}, compare(predict, source, images), needs)
    check_sizes(source, images)
    network = exported_network(source)
    program = export_program(network, source)
    path = folder / f'{source.name}{".onnx" if form == ONNX else ".pt2"}'
    if form == ONNX:
        write_onnx(program, path, network.outputs, network.onnx_operators)
    else:
        torch.export.save(program, path)
    exported = {form: file_predictor(path)}
    agreement = compare(exported[form], source, images)
    if calibration is not None:
        quantized = path.with_name(f'{source.name}-{INT8}.onnx')
        quantize(path, quantized, calibration)
        exported[INT8] = file_predictor(quantized)
    return Exported(exported, agreement)


def measure_latencies(exported: Exported, source: ExportSource) -> dict[str, float]:
    """Measure milliseconds per image of the exported files, of PyTorch and of the teacher.

    A teacher whose head has several outputs is skipped. Detectors without a supported graph are
    timed in mmdet, with its selection of boxes.
    """
    size = source.inspection.input_size
    if source.detects and CHECKPOINT in exported.predictors:
        source = dataclasses.replace(source, nms=True)
    networks = {IN_PYTORCH: source}
    teacher = source.inspection.members.get(TEACHER)
    if teacher is not None and source.what != TEACHER and _can_be_timed(teacher, source):
        # Its weights are not loaded, but do not affect the time.
        networks[TEACHER_IN_PYTORCH] = dataclasses.replace(source, members={TEACHER: teacher})
    timed = {} if CHECKPOINT in exported.predictors else dict(exported.predictors)
    timed.update({name: _predictor_in_pytorch(one) for name, one in networks.items()})
    return latencies(timed, (source.channels, *size), source.dtype)


def _can_be_timed(teacher: nn.Module, source: ExportSource) -> bool:
    if source.detects:
        return True
    with torch.inference_mode():
        image = torch.zeros(1, source.channels, *source.inspection.input_size)
        return source.inspection.task.logits(teacher.eval(), image) is not None


def _predictor_in_pytorch(source: ExportSource) -> PredictFn:
    try:
        return network_predictor(exported_network(source))
    except ValueError:
        if not source.detects:
            raise
        return framework_predictor(dataclasses.replace(source, nms=True))


def speed_ups(times: Mapping[str, float]) -> dict[str, float]:
    """Return the speed-ups over the teacher in PyTorch by name; empty if it was not timed."""
    others = dict(times)
    teacher = others.pop(TEACHER_IN_PYTORCH, None)
    return {} if teacher is None else {name: teacher / time for name, time in others.items()}


def compare_int8(times: Mapping[str, float]) -> str:
    """Compare the speed of int8 with that of the float file, with a warning if it is slower.

    Returns:
        A sentence; empty if one of the two was not timed.
    """
    if not {ONNX, INT8} <= set(times):
        return ''
    ratio = times[ONNX] / times[INT8]
    text = f'{INT8} is {ratio:.2f} times as fast as the float file ({ONNX}).'
    if ratio >= 1:
        return text
    return (
        f'Warning: {text} It is slower on this machine, whose onnxruntime may lack fast int8 '
        f'kernels. Use the float file unless the target device is faster with int8.'
    )


@contextmanager
def new_folder(out: str | Path, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder whose files are moved to ``out`` if the block succeeds.

    Args:
        out: Output folder; created if missing.
        force: Replace files of the same name.

    Raises:
        FileExistsError: If ``out`` is a file, or is not empty, without ``force``.
    """
    out = Path(out).resolve()
    if out.is_file() or (not force and out.is_dir() and any(out.iterdir())):
        raise FileExistsError(
            f'{out} already exists: expected a new or empty folder. Use --force to replace '
            'files of the same name'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as part:
        yield Path(part)
        out.mkdir(exist_ok=True)
        for path in sorted(Path(part).iterdir()):
            os.replace(path, out / path.name)
            (out / path.name).chmod(0o644)
