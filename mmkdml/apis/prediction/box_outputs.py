"""Rows and COCO JSON files of the boxes that a detector predicts."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mmkdml.apis.prediction.answers import Answer, Prediction
from mmkdml.apis.prediction.predictor import Predictor
from mmkdml.evaluation.boxes.samples import Boxes
from mmkdml.inspection.config import inspect_model

#: Columns of a box in pixels of the image.
CORNERS = ('x1', 'y1', 'x2', 'y2')
# Digits after the point of scores and of pixels.
_SCORE_DIGITS, _PIXEL_DIGITS = 6, 3


class InvalidBoxesError(ValueError):
    """Error about a case, after which others can be predicted."""


def class_names(predictor: Predictor) -> tuple[str, ...]:
    """Return the names of a detector's classes; their indices if the names are unknown."""
    found = inspect_model(predictor.model)
    number = max(map(found.task.num_classes, found.members.values()))
    known = predictor.classes or ()
    return known if len(known) == number else tuple(map(str, range(number)))


def box_rows(prediction: Prediction, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each box of each member, the highest score first.

    A member without boxes has one row without a label, which counts the image.

    Raises:
        InvalidBoxesError: If a box or score is not finite.
    """
    height, width = prediction.image.shape[:2]
    rows = []
    for name, answer in prediction.answers.items():
        image = dict(image=prediction.index, width=width, height=height, member=name)
        found = as_boxes(answer)
        if not (np.isfinite(found.boxes).all() and np.isfinite(found.scores).all()):
            raise InvalidBoxesError(
                f'{prediction.case.source.name}: expected finite boxes and scores of {name}, got '
                'NaN or infinity. Check the checkpoint, and the size and normalization of images'
            )
        for box, score, label in zip(*(one.tolist() for one in found), strict=True):
            corners = [round(side, _PIXEL_DIGITS) for side in box]
            own = dict(label=classes[label], score=round(score, _SCORE_DIGITS))
            rows.append(dict(image, **own, **dict(zip(CORNERS, corners, strict=True))))
        if not len(found.scores):
            rows.append(dict(image, **dict.fromkeys(('label', 'score', *CORNERS))))
    return rows


def as_boxes(answer: Answer) -> Boxes:
    """Return the boxes of a member."""
    assert answer.boxes is not None
    return Boxes(answer.boxes, answer.scores, answer.label)


def coco_text(cases: Mapping[str, Mapping[str, Any]], member: str, classes: Sequence[str]) -> str:
    """Return the boxes of a member as a COCO JSON file.

    It contains ``images``, ``categories`` and ``annotations``. Each annotation has a ``score``, so
    that the list is also one of COCO results.

    Args:
        cases: ``path`` (None for an array) and ``rows`` of each case by name; see :func:`box_rows`.
            Images of a stack or volume have the same ``file_name`` and their index as ``slice``.
        member: Name of the member.
        classes: Names of the classes; category ids are their positions from 1.
    """
    categories = {name: number for number, name in enumerate(classes, start=1)}
    images: dict[tuple[str, int], dict[str, Any]] = {}
    annotations: list[dict[str, Any]] = []
    for name, row in _rows_of(cases, member):
        path = cases[name]['path'] or name
        new = dict(id=len(images) + 1, file_name=path, width=row['width'], height=row['height'])
        image = images.setdefault((name, row['image']), dict(new, slice=row['image']))
        if row['label'] is None:
            continue
        x1, y1, x2, y2 = (row[key] for key in CORNERS)
        width, height = (round(side, _PIXEL_DIGITS) for side in (x2 - x1, y2 - y1))
        annotations.append(
            dict(
                id=len(annotations) + 1,
                image_id=image['id'],
                category_id=categories[row['label']],
                bbox=[x1, y1, width, height],
                area=round(width * height, _PIXEL_DIGITS),
                iscrowd=0,
                score=row['score'],
            )
        )
    names = [dict(id=number, name=name) for name, number in categories.items()]
    return json.dumps(
        dict(images=[*images.values()], categories=names, annotations=annotations), allow_nan=False
    )


def _rows_of(
    cases: Mapping[str, Mapping[str, Any]], member: str
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    return (
        (name, row)
        for name, case in cases.items()
        for row in case['rows']
        if row['member'] == member
    )
