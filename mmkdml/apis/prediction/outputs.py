"""Predictions as files: masks, overlays and tables, case by case, so that a stop costs little."""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mmkdml.apis.output_folder import MANIFEST, OutputFolder
from mmkdml.apis.prediction.finished_cases import SETTINGS, Records, decisive_sha256
from mmkdml.apis.prediction.inputs import Case, ReadOptions, Source, find_sources
from mmkdml.apis.prediction.overlays import draw_overlay
from mmkdml.apis.prediction.predictor import Prediction, Predictor
from mmkdml.apis.prediction.volumes import write_mask
from mmkdml.evaluation.mask_panels import Panel
from mmkdml.evaluation.spreadsheets import csv_text
from mmkdml.files import file_sha256, json_text

# Of a stack or volume, as many images as a screen has room for.
_ROWS_OF_AN_OVERLAY = 4
PREDICTIONS_CSV, PREDICTIONS_JSON = 'predictions.csv', 'predictions.json'
# Errors of a case whose name is invalid for a file, or is that of a folder.
_OF_ITS_NAME = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)
_MASK_SUFFIXES = ('.png', '.tif', '.nii.gz')


def predict_files(
    predictor: Predictor,
    images: Any,
    out: str | Path,
    exclude: str | None = None,
    overlays: bool = True,
    force: bool = False,
    members: Sequence[str] | None = None,
    augment: bool = False,
    read: ReadOptions | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Predict files, and write the predictions of the members and the ensemble.

    In ``out`` there are then

    - ``predictions.csv``: a row for each image and member, with the class and each class's score,
      or with the number of pixels of each foreground class; ``predictions.json``: the same by case,
      with the case's file or folder, the settings and what failed;
    - for segmentation ``masks/<member>/<case>``: PNG, TIFF for a stack, NIfTI on the volume's own
      grid for NIfTI and DICOM. The foreground of two classes is 255 in PNG and TIFF; otherwise
      the values are the classes' indices;
    - for segmentation ``overlays/<case>.png``; of several images those with the most foreground.

    Cases that cannot be read or written are skipped and named at the end. Cases that an earlier
    call with the same settings has finished are skipped while the content of their files, and of
    what was written of them, is unchanged. ``.mmkdml_outputs`` lists the files that were
    written; no other file is replaced.

    Args:
        predictor: As :func:`~mmkdml.apis.prediction.predictor.load` gives it.
        images: Files and folders; see :func:`~mmkdml.apis.prediction.inputs.find_sources`.
        out: Folder to write to; made if missing.
        exclude: Leaves out files whose names match.
        overlays: Draw them.
        force: Predict all cases again, and replace predictions made with other settings.
        members: As of :meth:`Predictor.stream`, like ``augment``, ``read`` and ``options``.
        augment: See there.
        read: See there.
        **options: See there (``batch_size``, ``progress``).

    Returns:
        The rows of ``predictions.csv``.

    Raises:
        FileExistsError: If ``out`` holds a file to write that no earlier call wrote, or that is an
            input.
        FileNotFoundError: If there is no such file or folder.
        ValueError: If ``out`` is a file, lies in a folder of images or holds predictions made
            with other settings, an argument is out of range, two cases would be written to the same
            files, or, at the end, if a case could not be read or written.
    """
    out, read = Path(out), read or ReadOptions()
    _check_place(out, images)
    sources = find_sources(images, exclude, number=False)
    outputs = OutputFolder(out, inputs=[path for source in sources for path in source.files])
    wanted = [name for name in predictor.members if name in (members or predictor.members)]
    settings = dict(
        config=Path(predictor.config.filename or '').stem,
        config_sha256=decisive_sha256(predictor.config),
        checkpoint=predictor.checkpoint and file_sha256(predictor.checkpoint),
        members=wanted,
        augment=augment,
        plane=read.plane,
        window=read.window and list(read.window),
        overlays=overlays,
    )
    records = Records(outputs, settings)
    done: dict[str, Any] = {}
    failed: dict[str, str] = {}
    for source in sources:
        try:
            done[source.name] = records.find(source, force)
            outputs.check([records.path_of(source), *_places(source, wanted)])
        except OSError as error:
            if error.errno not in _OF_ITS_NAME:
                raise
            failed[source.name] = f'{_place(source)}: {error}'
    outputs.check([PREDICTIONS_CSV, PREDICTIONS_JSON, SETTINGS])
    todo = [source for source in sources if done.get(source.name, ()) is None]

    def tell(source: Source, error: ValueError) -> None:
        failed[source.name] = str(error)

    stream = predictor.stream(
        todo, members=members, augment=augment, read=read, on_error=tell, **options
    )
    records.claim(force)
    _refuse_equal_names(sources, out)
    for case, predictions in groupby(stream, key=lambda prediction: prediction.case):
        try:
            rows, written = _write_case(case, predictions, predictor, outputs, overlays)
            if records.keep(case.source, rows, written):
                done[case.source.name] = rows
            else:
                failed[case.source.name] = f'{_place(case.source)}: changed while it was predicted'
        except OSError as error:
            if error.errno not in _OF_ITS_NAME:
                raise
            failed[case.source.name] = f'{_place(case.source)}: {error}'
    for source in todo:
        if source.name in failed:
            records.forget(source)
    whole = [source for source in sources if source.name not in failed]
    table = pd.DataFrame(
        [dict(case=source.name, **row) for source in whole for row in done[source.name] or ()]
    )
    cases = {source.name: dict(path=_place(source), rows=done[source.name]) for source in whole}
    outputs.write_text(PREDICTIONS_CSV, csv_text(table))
    summary = dict(settings=settings, cases=cases, failed=failed)
    outputs.write_text(PREDICTIONS_JSON, json_text(summary, indent=1))
    if failed:
        reasons = '\n  '.join(failed.values())
        raise ValueError(
            f'{len(failed)} of {len(sources)} cases could not be predicted, the others are in '
            f'{out}:\n  {reasons}'
        )
    return table


def _check_place(out: Path, images: Any) -> None:
    """Refuses a file, and a folder of images as the place for masks."""
    if out.exists() and not out.is_dir():
        raise ValueError(f'{out} is a file; name a folder to write to')
    for item in images if isinstance(images, (list, tuple)) else [images]:
        if isinstance(item, (str, Path)) and out.resolve().is_relative_to(Path(item).resolve()):
            raise ValueError(
                f'{out} lies in {item}, and its masks would be the next images; choose a folder '
                'outside of it'
            )


def _refuse_equal_names(sources: Sequence[Source], out: Path) -> None:
    """Refuse cases whose file names differ only in upper and lower case, where that is ignored.

    Raises:
        ValueError: If there are any, and the folder is in such a file system.
    """
    if not is_case_insensitive(out):
        return
    taken: dict[str, Source] = {}
    for source in sources:
        other = taken.setdefault(unicodedata.normalize('NFC', source.name).casefold(), source)
        if other is not source:
            raise ValueError(
                f'{_place(other)} and {_place(source)} would both be written as {other.name}, '
                f'because the file system of {out} ignores upper and lower case. Predict them into '
                'two folders'
            )


def is_case_insensitive(folder: Path) -> bool:
    """Return whether the file system of a folder ignores case."""
    return (folder / MANIFEST.upper()).exists()


def _places(source: Source, members: Sequence[str]) -> list[Path]:
    """Return the paths of all possible masks and overlays of a case, relative to the folder."""
    places = [Path('masks', name) for name in members]
    masks = [place / f'{source.name}{one}' for place in places for one in _MASK_SUFFIXES]
    return [*masks, Path('overlays', f'{source.name}.png')]


def _place(source: Source) -> str | None:
    """The file, or the folder of a series."""
    if not source.files:
        return None
    return str(source.files[0] if len(source.files) == 1 else source.files[0].parent)


def _write_case(
    case: Case,
    predictions: Iterable[Prediction],
    predictor: Predictor,
    outputs: OutputFolder,
    overlays: bool,
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Writes the case's masks and overlay, and returns its rows of the table and the files."""
    rows, panels = [], []
    written: list[Path] = []
    segments = predictor.task == 'segmentation'
    for prediction in predictions:
        for name, answer in prediction.answers.items():
            row = dict(image=prediction.index, member=name)
            classes = _class_names(predictor, len(answer.probabilities))
            if segments:
                counts = np.bincount(np.ravel(answer.label), minlength=len(classes))
                cells = zip(classes[1:], counts.tolist()[1:], strict=True)
                row.update({f'pixels_{one}': count for one, count in cells})
            else:
                scores = zip(classes, answer.probabilities.tolist(), strict=True)
                row.update(label=classes[answer.label], **{f'score_{k}': v for k, v in scores})
            rows.append(row)
        if segments:
            masks = {name: answer.label for name, answer in prediction.answers.items()}
            panels.append(Panel(prediction.image, masks, _title(case, prediction.index)))
    if segments:
        for name in panels[0].masks:
            stack = np.stack([panel.masks[name] for panel in panels])
            written.append(_write_masks(case, stack, len(classes), outputs, name))
        if overlays:
            most = sorted(panels, key=lambda panel: -np.count_nonzero([*panel.masks.values()][-1]))
            shown = {id(panel) for panel in most[:_ROWS_OF_AN_OVERLAY]}
            written.append(outputs.path / 'overlays' / f'{case.source.name}.png')
            with outputs.writing(written[-1]) as part:
                draw_overlay([panel for panel in panels if id(panel) in shown], classes, part)
    return rows, written


def _class_names(predictor: Predictor, scores: int) -> tuple[str, ...]:
    """As many as there are classes, two for one foreground probability."""
    number = max(scores, 2)
    known = predictor.classes or ()
    return known if len(known) == number else tuple(map(str, range(number)))


def _title(case: Case, index: int) -> str:
    name = Path(case.source.name).name
    return name if len(case.images) == 1 else f'{name} {index + 1}/{len(case.images)}'


def _write_masks(
    case: Case, masks: np.ndarray, classes: int, outputs: OutputFolder, member: str
) -> Path:
    png, tif, nifti = _MASK_SUFFIXES
    suffix = nifti if case.volume is not None else png if len(masks) == 1 else tif
    path = outputs.path / 'masks' / member / f'{case.source.name}{suffix}'
    with outputs.writing(path) as part:
        if case.volume is not None:
            write_mask(masks, case.volume, part)
            return path
        first, *others = [Image.fromarray(mask * (255 if classes == 2 else 1)) for mask in masks]
        if others:
            options = dict(save_all=True, append_images=others, compression='tiff_deflate')
            first.save(part, 'TIFF', **options)
        else:
            first.save(part, 'PNG')
    return path
