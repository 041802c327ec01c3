"""HTML of the viewer: tiles of images and maps, tables of class scores."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import cv2
import numpy as np
from matplotlib.colors import to_hex

from mmkdml.analysis.case_figure import HEAT_COLORS
from mmkdml.apis.prediction.answers import Answer
from mmkdml.apis.prediction.box_outputs import as_boxes
from mmkdml.apis.prediction.box_tiles import draw_boxes
from mmkdml.apis.prediction.overlays import draw_tile, foreground_color
from mmkdml.apis.view.hardness import IOU, PROBABILITY, measure_of, true_quality
from mmkdml.apis.view.maps import (
    apply_display_window,
    blend_heat,
    class_probability,
    count_differing,
    js_divergence,
)
from mmkdml.apis.view.slices import ViewSlice
from mmkdml.evaluation.boxes.samples import TrueBoxes
from mmkdml.evaluation.mask_panels import IGNORED, TRUTH
from mmkdml.names import ENSEMBLE, PLAIN

MASKS, HEAT = LAYERS = ('masks', 'heat map')
DIFFERING, DIVERGENCE = MEASURES = ('differing', 'JS divergence')
_SIDE = 512  # longer side of a tile in pixels


@dataclass(frozen=True)
class Display:
    """Settings of the page.

    Attributes:
        members: Names of the displayed members.
        layer: One of :data:`LAYERS`.
        measure: One of :data:`MEASURES`.
        target: Index of the class of heat maps.
        opacity: Opacity of masks and heat maps, in [0, 1].
        center: Gray value in the middle of the display window.
        width: Width of the display window in gray values.
        score: Lowest score of displayed boxes.
    """

    members: Sequence[str]
    layer: str = MASKS
    measure: str = DIFFERING
    target: int = 1
    opacity: float = 0.3
    center: float = 127.5
    width: float = 255
    score: float = 0.3


def render(view: ViewSlice, display: Display, classes: Sequence[str]) -> str:
    """Return the tiles of a slice as self-contained HTML.

    Args:
        view: The slice.
        display: Settings.
        classes: Names of all classes.
    """
    answers = {name: one for name, one in view.answers.items() if name in display.members}
    image = apply_display_window(view.image, display.center, display.width)
    plain = draw_tile(image, None, (), _scales(view))
    measure = measure_of(next(iter(view.answers.values())))
    tiles = {'image': (plain, '')}
    if measure == PROBABILITY:
        return _tiles(tiles) + _score_table(view, answers, classes)
    if view.truth is not None:
        truth = _true_answer(view.truth)
        tiles[TRUTH] = _layer(image, view, truth, display), _size(truth)
    masks = measure == IOU
    for name, answer in answers.items():
        if masks and display.layer == HEAT:
            heat = class_probability(answer.scores, display.target)
            tile = _heat(image, view, heat, display)
        else:
            tile = _layer(image, view, answer, display)
        tiles[name] = tile, _caption(_above(answer, display), view, measure)
    voters = [answer for name, answer in answers.items() if name not in (ENSEMBLE, PLAIN)]
    if masks and len(voters) > 1:
        heat, caption = _disagreement(voters, display)
        tiles['disagreement'] = _heat(image, view, heat, display), caption
    return _tiles(tiles) + _legend(classes[1:] if masks else classes, masks)


def _scales(view: ViewSlice) -> tuple[float, float]:
    height, width = view.image.shape[:2]
    down, across = view.spacing or (1.0, 1.0)
    longest = max(height * down, width * across)
    return _SIDE * down / longest, _SIDE * across / longest


def _layer(image: np.ndarray, view: ViewSlice, answer: Answer, display: Display) -> np.ndarray:
    """Draw a mask or boxes on the scaled image."""
    scales = _scales(view)
    labels = answer.label
    colors = [foreground_color(one) for one in range(int(labels.max(initial=0)) + 1)]
    if answer.boxes is None:
        return draw_tile(image, labels, colors, scales, display.opacity)
    tile = draw_tile(image, None, (), scales)
    return draw_boxes(tile, as_boxes(_above(answer, display)), colors, scales)


def _heat(image: np.ndarray, view: ViewSlice, heat: np.ndarray, display: Display) -> np.ndarray:
    return draw_tile(blend_heat(image, heat, display.opacity), None, (), _scales(view))


def _above(answer: Answer, display: Display) -> Answer:
    """Return a prediction with only the boxes to display."""
    if answer.boxes is None:
        return answer
    boxes = as_boxes(answer).above(display.score)
    return Answer(boxes.labels, boxes.scores, boxes.boxes)


def _true_answer(truth: Any) -> Answer:
    if isinstance(truth, TrueBoxes):
        return Answer(truth.labels, np.ones(len(truth.labels), np.float32), truth.boxes)
    return Answer(np.where(truth == IGNORED, 0, truth).astype(np.uint8), np.empty(0))


def _disagreement(answers: Sequence[Answer], display: Display) -> tuple[np.ndarray, str]:
    """Return the map of a measure, scaled to [0, 1], and its caption."""
    members, classes = len(answers), max(len(answers[0].scores), 2)
    if display.measure == DIFFERING:
        counts = count_differing([one.label for one in answers])
        share, most = 100 * (counts > 0).mean(), members - -(-members // classes)
        return counts / most, f'in {share:.2f} % of the pixels'
    bits = js_divergence([one.probabilities for one in answers])
    return (bits / np.log2(min(members, classes))).clip(0, 1), f'mean {bits.mean():.4f} bits'


def _size(answer: Answer) -> str:
    number = len(answer.scores) if answer.boxes is not None else np.count_nonzero(answer.label)
    return f'{number:,} {"px" if answer.boxes is None else "box" if number == 1 else "boxes"}'


def _caption(answer: Answer, view: ViewSlice, measure: str) -> str:
    if view.truth is None:
        return _size(answer)
    value = true_quality(answer, view.truth, score=0)  # of the displayed boxes
    shown = 'both empty' if np.isnan(value) else f'{measure} {value:.1f} %'
    return f'{_size(answer)}, {shown}'


def _tiles(tiles: Mapping[str, tuple[np.ndarray, str]]) -> str:
    figures = ''.join(
        f'<figure><img src="{_uri(tile)}" alt="{escape(name)}"/>'
        f'<figcaption><b>{escape(name)}</b> {escape(caption)}</figcaption></figure>'
        for name, (tile, caption) in tiles.items()
    )
    return f'<div class="tiles">{figures}</div>'


def _uri(tile: np.ndarray) -> str:
    _, content = cv2.imencode('.png', tile[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return f'data:image/png;base64,{b64encode(content.tobytes()).decode()}'


def _legend(names: Sequence[str], heat: bool) -> str:
    marks = ''.join(
        f'<span><i style="background:rgb{foreground_color(index)}"></i>{escape(name)}</span>'
        for index, name in enumerate(names)
    )
    if heat:
        colors = ', '.join(map(to_hex, HEAT_COLORS(np.linspace(0, 1, 9))))
        bar = f'<i style="width:6rem;background:linear-gradient(to right, {colors})"></i>'
        marks += f'<span>heat: 0 {bar} 1</span>'
    return f'<div class="legend">{marks}</div>'


def _score_table(view: ViewSlice, answers: Mapping[str, Answer], classes: Sequence[str]) -> str:
    """Return the probability of each class by member; predicted classes are bold."""
    true = view.truth if isinstance(view.truth, tuple) else (view.truth,)
    head = ''.join(
        f'<th>{escape(name)}{" (true)" if index in true else ""}</th>'
        for index, name in enumerate(classes)
    )
    rows = []
    for name, answer in answers.items():
        labels = answer.label if isinstance(answer.label, tuple) else (answer.label,)
        shares = [float(class_probability(answer.probabilities, i)) for i in range(len(classes))]
        cells = ''.join(
            f'<td style="--share:{100 * share:.1f}%">'
            + (f'<b>{share:.3f}</b>' if index in labels else f'{share:.3f}')
            + '</td>'
            for index, share in enumerate(shares)
        )
        rows.append(f'<tr><th>{escape(name)}</th>{cells}</tr>')
    voters = [one for name, one in answers.items() if name not in (ENSEMBLE, PLAIN)]
    note = ''
    if len(voters) > 1 and not isinstance(voters[0].label, tuple):
        bits = float(js_divergence([one.probabilities for one in voters]))
        note = f'<p>Jensen-Shannon divergence of the members: {bits:.4f} bits</p>'
    return f'<table class="scores"><tr><th></th>{head}</tr>{"".join(rows)}</table>{note}'
