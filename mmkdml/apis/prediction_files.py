"""Predictions as files: masks, overlays and tables, case by case, so that a stop costs little."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from mmkdml.apis.image_sources import Case, ReadOptions, Source, find_sources
from mmkdml.apis.medical_images import write_mask
from mmkdml.apis.prediction import Prediction, Predictor
from mmkdml.evaluation.panels import Panel, draw_sheet
from mmkdml.models.checkpoints import file_sha256

# Of a stack or volume, as many images as a sheet of paper has room for.
_ROWS_OF_AN_OVERLAY = 4


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
    """Predicts files and writes what the members and the ensemble say.

    In ``out`` there are then

    - ``predictions.csv``: a row for each image and member, with the class and each class's score,
      or with the number of pixels of each foreground class; ``predictions.json``: the same by case,
      with the settings and what failed;
    - for segmentation ``masks/<member>/<case>``: PNG, TIFF for a stack, NIfTI on the volume's own
      grid for NIfTI and DICOM. The foreground of two classes is 255 in PNG and TIFF; otherwise
      the values are the classes' indices;
    - for segmentation ``overlays/<case>.png``; of several images those with the most foreground.

    A case that cannot be read is left out, and told of at the end. Cases that an earlier call with
    the same settings has finished are skipped while their files stay unchanged.

    Args:
        predictor: As :func:`~mmkdml.apis.prediction.load` gives it.
        images: Files and folders; see :func:`~mmkdml.apis.image_sources.find_sources`.
        out: Folder to write to; made if missing.
        exclude: Leaves out files whose names match.
        overlays: Draw them.
        force: Predict all anew, and replace what was written with other settings.
        members: As of :meth:`Predictor.stream`, like ``augment``, ``read`` and ``options``.
        augment: See there.
        read: See there.
        **options: See there (``batch_size``, ``progress``).

    Returns:
        The rows of ``predictions.csv``.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If ``out`` lies in a folder of images or holds answers of other settings, or, at
            the end, if a case could not be read.
    """
    out, read = Path(out), read or ReadOptions()
    _refuse_within(out, images)
    sources = find_sources(images, exclude)
    settings = dict(
        config=Path(predictor.config.filename or '').stem,
        checkpoint=predictor.checkpoint and file_sha256(predictor.checkpoint),
        members=list(members or predictor.members),
        augment=augment,
        plane=read.plane,
        window=read.window and list(read.window),
        overlays=overlays,
    )
    _claim(out, settings, force)
    records = {} if force else _finished(sources, settings, out)
    failed = {}

    def tell(source: Source, error: ValueError) -> None:
        failed[source.name] = str(error)

    todo = [source for source in sources if source.name not in records]
    stream = predictor.stream(
        todo, members=members, augment=augment, read=read, on_error=tell, **options
    )
    for case, predictions in groupby(stream, key=lambda prediction: prediction.case):
        rows = _write_case(case, predictions, predictor, out, overlays)
        record = dict(stamp=_stamp(case.source, settings), rows=rows)
        _write_json(_record_path(out, case.source), record)
        records[case.source.name] = record
    done = [source.name for source in sources if source.name in records]
    rows = [dict(case=name, **row) for name in done for row in records[name]['rows']]
    table = pd.DataFrame(rows)
    table.to_csv(out / 'predictions.csv', index=False)
    cases = {name: records[name]['rows'] for name in done}
    _write_json(out / 'predictions.json', dict(settings=settings, cases=cases, failed=failed))
    if failed:
        reasons = '\n  '.join(failed.values())
        raise ValueError(
            f'{len(failed)} of {len(sources)} cases could not be predicted, the others are in '
            f'{out}:\n  {reasons}'
        )
    return table


def _refuse_within(out: Path, images: Any) -> None:
    for item in images if isinstance(images, (list, tuple)) else [images]:
        if isinstance(item, (str, Path)) and out.resolve().is_relative_to(Path(item).resolve()):
            raise ValueError(
                f'{out} lies in {item}, and its masks would be the next images; choose a folder '
                'outside of it'
            )


def _claim(out: Path, settings: dict[str, Any], force: bool) -> None:
    path = out / 'settings.json'
    before = json.loads(path.read_text()) if path.is_file() and not force else settings
    changed = [
        f'{key}: {before.get(key)!r} there, {value!r} now'
        for key, value in settings.items()
        if before.get(key) != value
    ]
    if changed:
        raise ValueError(
            f'{out} holds answers of other settings ({"; ".join(changed)}); choose another '
            'folder, or replace them with --force'
        )
    _write_json(path, settings)


def _finished(
    sources: Iterable[Source], settings: dict[str, Any], out: Path
) -> dict[str, dict[str, Any]]:
    records = {}
    for source in sources:
        path = _record_path(out, source)
        if source.files and path.is_file():
            record = json.loads(path.read_text())
            if record['stamp'] == _stamp(source, settings):
                records[source.name] = record
    return records


def _stamp(source: Source, settings: dict[str, Any]) -> dict[str, Any]:
    """What must not have changed for an answer to stand."""
    facts = [path.stat() for path in source.files]
    return dict(
        settings=settings,
        files=[str(path) for path in source.files],
        bytes=sum(fact.st_size for fact in facts),
        modified=max((fact.st_mtime_ns for fact in facts), default=0),
    )


def _record_path(out: Path, source: Source) -> Path:
    return out / 'cases' / f'{source.name}.json'


def _write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.part')
    part.write_text(json.dumps(content, indent=1) + '\n')
    os.replace(part, path)


def _write_case(
    case: Case, predictions: Iterable[Prediction], predictor: Predictor, out: Path, overlays: bool
) -> list[dict[str, Any]]:
    """Writes the case's masks and overlay, and returns its rows of the table."""
    rows, panels = [], []
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
            _write_masks(case, stack, len(classes), out / 'masks' / name)
        if overlays:
            most = sorted(panels, key=lambda panel: -np.count_nonzero([*panel.masks.values()][-1]))
            shown = {id(panel) for panel in most[:_ROWS_OF_AN_OVERLAY]}
            path = out / 'overlays' / f'{case.source.name}.png'
            draw_sheet([panel for panel in panels if id(panel) in shown], path)
    return rows


def _class_names(predictor: Predictor, scores: int) -> tuple[str, ...]:
    """As many as there are classes, two for one foreground probability."""
    number = max(scores, 2)
    known = predictor.classes or ()
    return known if len(known) == number else tuple(map(str, range(number)))


def _title(case: Case, index: int) -> str:
    name = Path(case.source.name).name
    return name if len(case.images) == 1 else f'{name} {index + 1}/{len(case.images)}'


def _write_masks(case: Case, masks: np.ndarray, classes: int, folder: Path) -> None:
    stem = folder / case.source.name
    stem.parent.mkdir(parents=True, exist_ok=True)
    if case.volume is not None:
        write_mask(masks, case.volume, f'{stem}.nii.gz')
        return
    first, *others = [Image.fromarray(mask * (255 if classes == 2 else 1)) for mask in masks]
    if others:
        first.save(f'{stem}.tif', save_all=True, append_images=others, compression='tiff_deflate')
    else:
        first.save(f'{stem}.png')
