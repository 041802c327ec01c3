"""Trained networks as they are deployed: a plain checkpoint, ONNX or ``torch.export``."""

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

from mmkdml.apis.export.checkpoint import checkpoint_answers, write_checkpoint
from mmkdml.apis.export.checks import Agreement, compare, latencies
from mmkdml.apis.export.graph import (
    Answers,
    ExportedNetwork,
    check_sizes,
    export_program,
    file_answers,
    network_answers,
    quantise,
    write_onnx,
)
from mmkdml.apis.export.source import Source
from mmkdml.names import TEACHER

CHECKPOINT, ONNX, TORCH_EXPORT = FORMATS = ('checkpoint', 'onnx', 'torch-export')
INT8 = 'int8'
IN_PYTORCH, TEACHER_IN_PYTORCH = 'in PyTorch', 'teacher in PyTorch'


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        answers: How each exported form answers, by its name; the first is the format itself.
        agreement: Of the format with what it was made from.
        needs: Parts of a checkpoint that neither framework has, by package and class.
    """

    answers: dict[str, Answers]
    agreement: Agreement
    needs: tuple[str, ...] = ()


def export(
    source: Source,
    folder: Path,
    form: str,
    images: Sequence[np.ndarray],
    calibration: Iterable[np.ndarray] | None = None,
) -> Exported:
    """Writes a source into a folder, reads it again and holds it against PyTorch.

    Args:
        source: What to export.
        folder: To write to; must exist. See :func:`new_folder`.
        form: ``'checkpoint'``, ``'onnx'`` or ``'torch-export'``.
        images: To compare on: RGB, each (3, H, W), uint8.
        calibration: Images to scale an int8 model by, which is written beside the ONNX.

    Raises:
        ValueError: If the format is another, cannot hold the source or the images, needs what is
            not installed, or if the written answers otherwise.
    """
    if form not in FORMATS:
        raise ValueError(f'expected a format among {", ".join(FORMATS)}, got {form!r}')
    if calibration is not None and form != ONNX:
        raise ValueError(f'int8 is made of the format {ONNX}, got {form}')
    if form == CHECKPOINT:
        path, needs = write_checkpoint(source, folder)
        answers = checkpoint_answers(path, source)
        return Exported({form: answers}, compare(answers, source, images), needs)
    check_sizes(source, images)
    program = export_program(ExportedNetwork(source), source)
    path = folder / f'{source.name}{".onnx" if form == ONNX else ".pt2"}'
    if form == ONNX:
        write_onnx(program, path)
    else:
        torch.export.save(program, path)
    exported = {form: file_answers(path)}
    agreement = compare(exported[form], source, images)
    if calibration is not None:
        quantised = path.with_name(f'{source.name}-{INT8}.onnx')
        quantise(path, quantised, calibration)
        exported[INT8] = file_answers(quantised)
    return Exported(exported, agreement)


def measure_latencies(exported: Exported, source: Source) -> dict[str, float]:
    """Milliseconds for one image on this machine: as exported, in PyTorch, and of the teacher.

    A teacher whose head has several outputs is not timed.
    """
    size = source.inspection.input_size
    networks = {IN_PYTORCH: source}
    teacher = source.inspection.members.get(TEACHER)
    if teacher is not None and source.what != TEACHER:
        with torch.inference_mode():
            logits = source.inspection.task.logits(teacher.eval(), torch.zeros(1, 3, *size))
        if logits is not None:  # whatever its weights: they do not change the time
            networks[TEACHER_IN_PYTORCH] = dataclasses.replace(source, members={TEACHER: teacher})
    timed = {} if CHECKPOINT in exported.answers else dict(exported.answers)
    timed.update({name: network_answers(ExportedNetwork(one)) for name, one in networks.items()})
    return latencies(timed, size)


def speed_ups(times: Mapping[str, float]) -> dict[str, float]:
    """How many times as fast as the teacher in PyTorch, by name; empty if it was not timed."""
    teacher = times.get(TEACHER_IN_PYTORCH)
    if teacher is None:
        return {}
    return {name: teacher / one for name, one in times.items() if name != TEACHER_IN_PYTORCH}


@contextmanager
def new_folder(out: str | Path, force: bool = False) -> Iterator[Path]:
    """A folder to write to, whose files come to ``out`` only if nothing went wrong.

    Args:
        out: Folder; made if missing.
        force: Replace files of the same name.

    Raises:
        FileExistsError: If there is something in it already, without ``force``, or it is a file.
    """
    out = Path(out).resolve()
    if out.is_file() or (not force and out.is_dir() and any(out.iterdir())):
        raise FileExistsError(
            f'{out} exists already: expected a new or empty folder, or --force to replace files of '
            'the same name in one'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as part:
        yield Path(part)
        out.mkdir(exist_ok=True)
        for path in sorted(Path(part).iterdir()):
            os.replace(path, out / path.name)
            (out / path.name).chmod(0o644)
