"""Writing predictions as masks, overlays and tables, case by case."""

from __future__ import annotations

import errno
import unicodedata
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from mmkdml.apis.output_folder import MANIFEST, OutputFolder
from mmkdml.apis.prediction.box_outputs import InvalidBoxesError, class_names, coco_text
from mmkdml.apis.prediction.case_files import NIFTI
from mmkdml.apis.prediction.case_outputs import MASK_SUFFIXES, segmentation_path, write_case
from mmkdml.apis.prediction.dicom import SegmentationError, Segments, is_dicom, read_segments
from mmkdml.apis.prediction.dicom.segmentation import require_highdicom
from mmkdml.apis.prediction.finished_cases import SETTINGS, Records, decisive_sha256
from mmkdml.apis.prediction.inputs import SUFFIXES, ReadOptions, Source, find_sources
from mmkdml.apis.prediction.predictor import Predictor
from mmkdml.evaluation.spreadsheets import csv_text
from mmkdml.files import json_text
from mmkdml.functional.checks import check_fraction
from mmkdml.names import SCORE_THRESHOLD

PREDICTIONS_CSV, PREDICTIONS_JSON = 'predictions.csv', 'predictions.json'
# Errors caused by a case's name: too long, or the name of an existing file or folder.
_NAME_ERRORS = (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST)


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
    score_threshold: float | None = None,
    segments: str | Path | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Predict files and write the predictions of the members and the ensemble to a folder.

    The folder then contains:

    - ``predictions.csv``: a row for each image and member with the class, the score and the
      probability of each class, or the number of pixels of each foreground class. Scores decide the
      class; those of an ensemble need not sum to 1. Probabilities are scores divided by their sum.
      Of multi-label networks the classes at or above the threshold of the head, joined by ``|``,
      and the score of each class, its probability. Of detectors a row for each box, with class,
      score and x1, y1, x2, y2 in pixels of the image, whose ``width`` and ``height`` are given; a
      member without boxes in an image has one row without a label.
    - ``predictions.json``: the same by case, with the input file or folder, the settings and the
      failed cases.
    - ``masks/<member>/<case>`` (segmentation): PNG, TIFF for a stack, and NIfTI on the volume's own
      grid for NIfTI and DICOM. Values are class indices, except that PNG and TIFF masks of two
      classes have 255 as foreground. If the table of classes of the training data has colors, PNG
      and TIFF masks are palette images with these colors, whose indices are the classes.
    - ``segmentations/<member>/<case>.dcm`` (segmentation of DICOM, with ``segments``): DICOM
      segmentation objects; see :func:`~mmkdml.apis.prediction.dicom.write_segmentation`.
    - ``boxes/<member>.json`` (detection): all boxes as COCO JSON; see
      :func:`~mmkdml.apis.prediction.box_outputs.coco_text`.
    - ``overlays/<case>.png`` (segmentation, detection): the images with the most foreground or
      boxes; see :func:`~mmkdml.apis.prediction.overlays.draw_overlay`.
    - ``.mmkdml_outputs``: the list of all written files. No other file is ever replaced.

    Cases that fail are skipped and reported at the end. Cases that an earlier call with the same
    settings has finished are skipped if their input and output files are unchanged.

    Args:
        predictor: Return value of :func:`~mmkdml.apis.prediction.predictor.load`.
        images: Files and folders; see :func:`~mmkdml.apis.prediction.inputs.find_sources`.
        out: Output folder; created if missing.
        exclude: Pattern of file names to skip.
        overlays: Draw overlays.
        force: Predict all cases again, and replace predictions with other settings.
        members: Names of the members to return. Default: all.
        augment: Average over test-time augmentation.
        read: Options for reading images and volumes.
        score_threshold: Lowest score of the boxes in overlays, in [0, 1]; the files contain all.
            Only for detectors. Default: 0.3.
        segments: JSON file with the codes of the classes; see
            :func:`~mmkdml.apis.prediction.dicom.read_segments`. Default: no segmentation objects.
        **options: Further arguments of :meth:`Predictor.stream` (``batch_size``, ``progress``).

    Returns:
        The rows of ``predictions.csv``.

    Raises:
        FileExistsError: If an output file exists that no earlier call wrote, or that is an input.
        FileNotFoundError: If an input does not exist.
        ValueError: If ``out`` is a file, is inside of a folder of images or contains predictions
            with other settings; if an argument is invalid or two cases have the same output files;
            or, after all other cases are written, if a case failed.
    """
    out, read = Path(out), read or ReadOptions()
    codes = None if segments is None else _codes(predictor, segments)
    detects = predictor.task == 'detection'
    if score_threshold is None:
        score_threshold = SCORE_THRESHOLD
    elif not detects:
        raise ValueError(
            f'Invalid score_threshold (--score): expected a detector, which predicts boxes, got '
            f'{predictor.task}'
        )
    check_fraction('score_threshold', score_threshold)
    _check_folder(out, images)
    sources = find_sources(images, exclude, number=False, channels=predictor.channels)
    if codes is not None and not any(map(_is_dicom, sources)):
        raise ValueError('Invalid segments (--segments): expected a DICOM series, got none')
    outputs = OutputFolder(out, inputs=[path for source in sources for path in source.files])
    wanted = [name for name in predictor.members if name in (members or predictor.members)]
    settings = dict(
        config=Path(predictor.config.filename or '').stem,
        config_sha256=decisive_sha256(predictor.config),
        checkpoint=predictor.checkpoint_sha256,
        members=wanted,
        augment=augment,
        plane=read.plane,
        window=read.window and list(read.window),
        overlays=overlays,
        **(dict(score_threshold=score_threshold) if detects and overlays else {}),
        **(dict(segments=codes.content) if codes else {}),
    )
    records = Records(outputs, settings)
    done: dict[str, Any] = {}
    failed: dict[str, str] = {}

    def add_failed(source: Source, error: Exception) -> None:
        if isinstance(error, OSError):
            if error.errno not in _NAME_ERRORS:
                raise error
            error = ValueError(f'{_input_path(source)}: {error}')
        failed[source.name] = str(error)

    for source in sources:
        try:
            done[source.name] = records.find(source, force)
            paths = _output_paths(source, wanted)
            if codes is not None and _is_dicom(source):
                paths += [segmentation_path(name, source.name) for name in wanted]
            outputs.check([records.path_of(source), *paths])
        except OSError as error:
            add_failed(source, error)
    of_boxes = {Path('boxes', f'{name}.json'): name for name in wanted} if detects else {}
    outputs.check([PREDICTIONS_CSV, PREDICTIONS_JSON, SETTINGS, *of_boxes])
    todo = [source for source in sources if done.get(source.name, ()) is None]

    stream = predictor.stream(
        todo, members=members, augment=augment, read=read, on_error=add_failed, **options
    )
    records.claim(force)
    shown = score_threshold if overlays else None
    _check_case_insensitive_names(sources, out)
    for case, predictions in groupby(stream, key=lambda prediction: prediction.case):
        try:
            rows, written = write_case(case, predictions, predictor, outputs, shown, codes)
            if records.keep(case.source, rows, written):
                done[case.source.name] = rows
            else:
                path = _input_path(case.source)
                failed[case.source.name] = f'{path}: changed while it was predicted'
        except (OSError, InvalidBoxesError, SegmentationError) as error:
            add_failed(case.source, error)
    for source in todo:
        if source.name in failed:
            records.forget(source)
    succeeded = [source for source in sources if source.name not in failed]
    complete = dict if predictor.multi_label or detects else _with_probabilities
    done = {name: list(map(complete, rows or ())) for name, rows in done.items()}
    table = pd.DataFrame(
        [dict(case=source.name, **row) for source in succeeded for row in done[source.name]]
    )
    cases = {
        source.name: dict(path=_input_path(source), rows=done[source.name]) for source in succeeded
    }
    outputs.write_text(PREDICTIONS_CSV, csv_text(table))
    for file, name in of_boxes.items():
        outputs.write_text(file, coco_text(cases, name, class_names(predictor)))
    summary = dict(settings=settings, cases=cases, failed=failed)
    outputs.write_text(PREDICTIONS_JSON, json_text(summary, indent=1))
    if failed:
        reasons = '\n  '.join(failed.values())
        raise ValueError(
            f'{len(failed)} of {len(sources)} cases failed, the others are in {out}:\n  {reasons}'
        )
    return table


def _codes(predictor: Predictor, path: str | Path) -> Segments:
    """Read the codes of the classes, and check as much as possible before the prediction."""
    if predictor.task != 'segmentation':
        raise ValueError(
            f'Invalid segments (--segments): expected a segmentor, which predicts masks, got '
            f'{predictor.task}'
        )
    require_highdicom()
    codes = read_segments(path)
    if predictor.classes:
        codes.of_classes(predictor.classes)
    return codes


def _is_dicom(source: Source) -> bool:
    return bool(source.files) and is_dicom(source.files[0], SUFFIXES)


def _check_folder(out: Path, images: Any) -> None:
    """Raise ValueError if the output folder is a file or inside of a folder of images."""
    if out.exists() and not out.is_dir():
        raise ValueError(f'Invalid output folder {out}: expected a folder, got a file')
    for item in images if isinstance(images, (list, tuple)) else [images]:
        if isinstance(item, (str, Path)) and out.resolve().is_relative_to(Path(item).resolve()):
            raise ValueError(
                f'Invalid output folder {out}: it is inside of the input folder {item}, so that '
                'its masks would be predicted next. Choose a folder outside'
            )


def _check_case_insensitive_names(sources: Sequence[Source], out: Path) -> None:
    """Raise ValueError if names are equal in a file system that ignores upper and lower case."""
    if not is_case_insensitive(out):
        return
    taken: dict[str, Source] = {}
    for source in sources:
        other = taken.setdefault(unicodedata.normalize('NFC', source.name).casefold(), source)
        if other is not source:
            raise ValueError(
                f'{_input_path(other)} and {_input_path(source)} would both be written as '
                f'{other.name}: the file system of {out} is case-insensitive. Predict them into '
                'different folders'
            )


def is_case_insensitive(folder: Path) -> bool:
    """Return whether the file system of a folder ignores upper and lower case."""
    return (folder / MANIFEST.upper()).exists()


def _output_paths(source: Source, members: Sequence[str]) -> list[Path]:
    """Return the relative paths of all possible masks and overlays of a case."""
    folders = [Path('masks', name) for name in members]
    masks = [folder / f'{source.name}{suffix}' for folder in folders for suffix in MASK_SUFFIXES]
    return [*masks, Path('overlays', f'{source.name}.png')]


def _input_path(source: Source) -> str | None:
    """Return the file or that of the first channel, or the folder of a series; None for arrays."""
    if not source.files:
        return None
    first = source.files[0]
    is_file = len(source.files) == 1 or first.name.lower().endswith(NIFTI)
    return str(first if is_file else first.parent)


def _with_probabilities(row: dict[str, Any]) -> dict[str, Any]:
    """Add a probability for each score of a row."""
    scores = {key.removeprefix('score_'): row[key] for key in row if key.startswith('score_')}
    total = sum(scores.values())
    return {**row, **{f'probability_{name}': score / total for name, score in scores.items()}}
