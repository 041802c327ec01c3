"""Rows, masks and overlays of one case."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmkdml.apis.output_folder import OutputFolder
from mmkdml.apis.prediction.answers import Prediction
from mmkdml.apis.prediction.box_outputs import as_boxes, box_rows, class_names
from mmkdml.apis.prediction.dicom import Segments, write_segmentation
from mmkdml.apis.prediction.inputs import Case
from mmkdml.apis.prediction.nifti import write_mask
from mmkdml.apis.prediction.overlays import columns_of, draw_overlay, size_of
from mmkdml.apis.prediction.predictor import Predictor
from mmkdml.apis.prediction.scratch import Scratch
from mmkdml.datasets.splits.split_row import SEPARATOR
from mmkdml.evaluation.boxes.panels import BoxPanel
from mmkdml.evaluation.mask_panels import Panel

MASK_SUFFIXES = ('.png', '.tif', '.nii.gz')
_OVERLAY_ROWS = 4  # images of a stack or volume


def write_case(
    case: Case,
    predictions: Iterable[Prediction],
    predictor: Predictor,
    outputs: OutputFolder,
    shown: float | None,
    codes: Segments | None = None,
) -> tuple[list[dict[str, Any]], list[Path]]:
    """Write the masks and the overlay of a case; return its table rows and the files.

    Args:
        case: The case.
        predictions: Predictions of its images.
        predictor: Predictor that made them.
        outputs: Folder for the files.
        shown: Lowest score of boxes in the overlay. None: draw no overlay.
        codes: Codes of the classes, for segmentation objects of DICOM. None: write none.

    Raises:
        SegmentationError: If a series lacks an element that segmentation objects require.
        ValueError: If the codes do not fit the classes.
    """
    if predictor.task == 'detection':
        return _write_boxes(case, predictions, class_names(predictor), outputs, shown)
    rows: list[dict[str, Any]] = []
    written: list[Path] = []
    masks: dict[str, Scratch] = {}
    shown_images = LargestForeground(len(case.images))
    segments = predictor.task == 'segmentation'
    for prediction in predictions:
        for name, answer in prediction.answers.items():
            row = dict(image=prediction.index, member=name)
            classes = _class_names(predictor, len(answer.scores))
            if segments:
                counts = np.bincount(np.ravel(answer.label), minlength=len(classes))
                cells = zip(classes[1:], counts.tolist()[1:], strict=True)
                row.update({f'pixels_{one}': count for one, count in cells})
            else:
                scores = zip(classes, answer.scores.tolist(), strict=True)
                chosen = answer.label if isinstance(answer.label, tuple) else (answer.label,)
                label = SEPARATOR.join(classes[one] for one in chosen)
                row.update(label=label, **{f'score_{k}': v for k, v in scores})
            rows.append(row)
        if segments:
            labels = {name: answer.label for name, answer in prediction.answers.items()}
            for name, label in labels.items():
                if name not in masks:
                    masks[name] = Scratch((len(case.images), *label.shape), np.uint8)
                masks[name].open()[prediction.index] = label
            if shown is not None:
                spacing = case.volume.spacing if case.volume else None
                title = _title(case, prediction.index)
                panel = Panel(prediction.image, labels, title, spacing)
                shown_images.add(prediction.index, panel)
    if codes is not None and case.volume is not None and case.volume.frames:
        # Before the masks, so that none is left of a series without the required elements.
        for name, stack in masks.items():
            path = outputs.path / segmentation_path(name, case.source.name)
            with outputs.writing(path) as part:
                described = codes.of_classes(classes)
                write_segmentation(
                    stack.open(), case.volume, described, codes.algorithm, part, name
                )
            written.append(path)
    for name, stack in masks.items():
        stacked = stack.open()
        written.append(_write_masks(case, stacked, len(classes), outputs, name, predictor.colors))
    if segments and shown is not None:
        written.append(_write_overlay(case, shown_images.panels, classes[1:], outputs))
    return rows, written


def segmentation_path(member: str, case: str) -> Path:
    """Return the path of a DICOM segmentation object in the output folder."""
    return Path('segmentations', member, f'{case}.dcm')


def _write_boxes(
    case: Case,
    predictions: Iterable[Prediction],
    classes: Sequence[str],
    outputs: OutputFolder,
    shown: float | None,
) -> tuple[list[dict[str, Any]], list[Path]]:
    rows, shown_images = [], LargestForeground(len(case.images))
    for prediction in predictions:
        rows += box_rows(prediction, classes)
        if shown is not None:
            boxes = {
                name: as_boxes(answer).above(shown) for name, answer in prediction.answers.items()
            }
            spacing = case.volume.spacing if case.volume else None
            title = f'{_title(case, prediction.index)} (scores from {shown:g})'
            panel = BoxPanel(prediction.image, boxes, title=title, spacing=spacing)
            shown_images.add(prediction.index, panel)
    panels = shown_images.panels
    return rows, [_write_overlay(case, panels, classes, outputs)] if panels else []


def _write_overlay(
    case: Case, panels: Sequence[Any], names: Sequence[str], outputs: OutputFolder
) -> Path:
    path = outputs.path / 'overlays' / f'{case.source.name}.png'
    with outputs.writing(path) as part:
        draw_overlay(panels, names, part)
    return path


class LargestForeground:
    """The images with the most foreground or boxes of the ensemble, then of any member.

    Images without any are taken from the middle of the volume. Other images are dropped
    immediately, so that memory does not grow with the volume.

    Args:
        number: Number of images of the case.
    """

    def __init__(self, number: int) -> None:
        self._middle = (number - 1) / 2
        self._kept: list[tuple[tuple[float, ...], Panel | BoxPanel]] = []

    def add(self, index: int, panel: Panel | BoxPanel) -> None:
        """Keep a panel if it belongs to the first ones."""
        counts = list(map(size_of, columns_of(panel).values()))
        order = (-counts[-1], -sum(counts), abs(index - self._middle), index)
        self._kept.append((order, panel))
        self._kept.sort(key=lambda pair: pair[0])
        del self._kept[_OVERLAY_ROWS:]

    @property
    def panels(self) -> list[Panel | BoxPanel]:
        """The panels by the index of their image."""
        return [panel for _, panel in sorted(self._kept, key=lambda pair: pair[0][-1])]


def _class_names(predictor: Predictor, scores: int) -> tuple[str, ...]:
    """Return the names of the classes, or their indices; one score means two classes."""
    number = scores if predictor.multi_label else max(scores, 2)
    known = predictor.classes or ()
    return known if len(known) == number else tuple(map(str, range(number)))


def _title(case: Case, index: int) -> str:
    name = Path(case.source.name).name
    return name if len(case.images) == 1 else f'{name} {index + 1}/{len(case.images)}'


def _write_masks(
    case: Case,
    masks: np.ndarray,
    classes: int,
    outputs: OutputFolder,
    member: str,
    colors: Sequence[Sequence[int]] | None,
) -> Path:
    png, tif, nifti = MASK_SUFFIXES
    suffix = nifti if case.volume is not None else png if len(masks) == 1 else tif
    path = outputs.path / 'masks' / member / f'{case.source.name}{suffix}'
    with outputs.writing(path) as part:
        if case.volume is not None:
            write_mask(masks, case.volume, part)
            return path
        scale = 255 if classes == 2 and colors is None else 1
        first, *others = pages = [Image.fromarray(mask * scale) for mask in masks]
        for page in pages if colors else ():
            page.putpalette([part for color in colors or () for part in color])
        if others:
            options = dict(save_all=True, append_images=others, compression='tiff_deflate')
            first.save(part, 'TIFF', **options)
        else:
            first.save(part, 'PNG')
    return path
