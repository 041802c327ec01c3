"""Trained networks as they are deployed: a plain checkpoint, ONNX or ``torch.export``."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mmkdml.apis.export_checkpoint import write_checkpoint
from mmkdml.apis.export_checks import Agreement, compare, framework_answers, latency
from mmkdml.apis.export_graph import (
    Answers,
    ExportedNetwork,
    export_program,
    file_answers,
    network_answers,
    quantise,
    write_onnx,
)
from mmkdml.apis.export_source import Source
from mmkdml.models.transfers import TEACHER

CHECKPOINT, ONNX, TORCH_EXPORT = FORMATS = ('checkpoint', 'onnx', 'torch-export')
INT8 = 'int8'


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        answers: How each exported form answers, by its name; the first is the format itself.
        agreement: Of the graph with PyTorch, None for a checkpoint.
        needs: Parts of a checkpoint that only mmkdml has.
    """

    answers: dict[str, Answers]
    agreement: Agreement | None = None
    needs: tuple[str, ...] = field(default=())


def export(
    source: Source,
    folder: Path,
    form: str,
    images: Iterable[np.ndarray],
    calibration: Iterable[np.ndarray] | None = None,
) -> Exported:
    """Writes a source into a folder, and holds a graph against PyTorch.

    Args:
        source: What to export.
        folder: To write to; must exist. See :func:`new_folder`.
        form: ``'checkpoint'``, ``'onnx'`` or ``'torch-export'``.
        images: To compare a graph on: RGB, each (3, H, W), uint8.
        calibration: Images to scale an int8 model by, which is written beside the ONNX.

    Raises:
        ValueError: If the format is another, cannot hold the source, needs what is not installed,
            or if the graph differs from PyTorch.
    """
    if form not in FORMATS:
        raise ValueError(f'expected a format among {", ".join(FORMATS)}, got {form!r}')
    if calibration is not None and form != ONNX:
        raise ValueError(f'int8 is made of the format {ONNX}, got {form}')
    if form == CHECKPOINT:
        needs = write_checkpoint(source, folder)
        return Exported({CHECKPOINT: framework_answers(source)}, needs=needs)
    program = export_program(ExportedNetwork(source), source)
    path = folder / f'{source.name}{".onnx" if form == ONNX else ".pt2"}'
    if form == ONNX:
        write_onnx(program, path)
    else:
        torch.export.save(program, path)
    answers = {form: file_answers(path)}
    agreement = compare(answers[form], source, images)
    if calibration is not None:
        quantised = path.with_name(f'{source.name}-{INT8}.onnx')
        quantise(path, quantised, calibration)
        answers[INT8] = file_answers(quantised)
    return Exported(answers, agreement)


def latencies(exported: Exported, source: Source) -> dict[str, float]:
    """Milliseconds for one image on this machine: as exported, in PyTorch, and of the teacher."""
    networks = {'in PyTorch': source}
    teacher = source.inspection.members.get(TEACHER)
    if teacher is not None and source.what != TEACHER:
        # Whatever its weights: they do not change the time.
        networks['teacher in PyTorch'] = dataclasses.replace(source, members={TEACHER: teacher})
    timed = {} if CHECKPOINT in exported.answers else dict(exported.answers)
    timed.update({name: network_answers(ExportedNetwork(one)) for name, one in networks.items()})
    return {name: latency(answers, source) for name, answers in timed.items()}


@contextmanager
def new_folder(out: str | Path, force: bool = False) -> Iterator[Path]:
    """A folder to write to, whose files come to ``out`` only if nothing went wrong.

    Args:
        out: Folder; made if missing.
        force: Replace files of the same name.

    Raises:
        FileExistsError: If there is something in it already, without ``force``.
    """
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not force):
        raise FileExistsError(
            f'{out} exists already; replace files of the same name with --force, or choose another '
            'folder'
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f'.{out.name}.') as part:
        yield Path(part)
        out.mkdir(exist_ok=True)
        for path in sorted(Path(part).iterdir()):
            os.replace(path, out / path.name)
            (out / path.name).chmod(0o644)
