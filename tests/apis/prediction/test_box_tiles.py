"""Drawn boxes by the colors and positions of the pixels."""

import numpy as np
import pytest
from PIL import Image

from mmkdml.apis.prediction.box_tiles import draw_boxes
from mmkdml.apis.prediction.case_outputs import LargestForeground
from mmkdml.apis.prediction.overlays import draw_overlay
from mmkdml.evaluation.boxes.panels import BoxPanel
from mmkdml.evaluation.boxes.samples import Boxes

COLORS = [(255, 0, 0), (0, 0, 120)]
GRAY = 90


def boxes(*corners, scores=None, labels=None):
    number = len(corners)
    return Boxes(
        np.array(corners, dtype=np.float32).reshape(-1, 4),
        np.array(scores or [0.5] * number, dtype=np.float32),
        np.array(labels or [0] * number),
    )


def draw(found, size=(100, 200), scales=(1.0, 1.0)):
    tile = np.full((*size, 3), GRAY, np.uint8)
    drawn = draw_boxes(tile, found, COLORS, scales)
    assert (tile == GRAY).all()
    assert drawn.shape == tile.shape
    return drawn


def extent(drawn, color):
    rows, columns = np.nonzero((drawn == color).all(axis=2))
    return int(columns.min()), int(rows.min()), int(columns.max()), int(rows.max())


@pytest.mark.parametrize('scales', [(1.0, 1.0), (0.5, 2.0), (3.0, 0.25)])
def test_first_and_last_pixel_of_a_box(scales):
    """A label above the box adds rows, so the upper one is only bounded."""
    vertical, horizontal = scales
    found = boxes((40 / horizontal, 30 / vertical, 120 / horizontal, 80 / vertical))
    left, top, right, bottom = extent(draw(found, scales=scales), COLORS[0])
    assert (left, right, bottom) == (40, 119, 79)
    assert 30 - 14 <= top <= 30


def test_inside_is_not_changed():
    drawn = draw(boxes((40, 30, 120, 80)))
    assert (drawn[32:78, 42:118] == GRAY).all()


@pytest.mark.parametrize(
    'corners', [(50, 50, 50, 50), (50.2, 50.1, 50.4, 50.3), (199, 99, 200, 100)]
)
def test_tiny_box_remains_visible(corners):
    left, _, right, bottom = extent(draw(boxes(corners)), COLORS[0])
    assert right - left >= 2
    assert 48 <= bottom <= 99


@pytest.mark.parametrize(
    'corners', [(-50, -50, 500, 500), (150, 60, 90, 20), (-9, -9, -5, -5), (300, 300, 310, 310)]
)
def test_boxes_outside_and_inverted_ones_are_drawn_within_the_image(corners):
    draw(boxes(corners))
    draw(boxes(corners), size=(1, 1))


def test_higher_scores_are_above_and_labels_never_overlap(monkeypatch):
    places, texts = [], []
    module = 'mmkdml.apis.prediction.box_tiles.ImageDraw.ImageDraw'
    monkeypatch.setattr(
        f'{module}.text',
        lambda self, place, text, *args: (places.append(place), texts.append(text)),
    )
    corners = [(20 + shift, 30, 80 + shift, 80) for shift in range(0, 60, 3)]
    scores = np.linspace(0.301, 0.999, len(corners)).tolist()
    draw(boxes(*corners, scores=scores))
    lefts = sorted(x for x, _ in places)
    assert texts[0] == '1.00'
    assert '.30' not in texts or len(texts) < len(corners)
    assert 2 <= len(texts) < len(corners)
    assert min(np.diff(lefts)) >= 20
    same = (30, 30, 90, 80)
    drawn = draw(boxes(same, same, scores=[0.9, 0.4], labels=[1, 0]))
    assert not (drawn == COLORS[0]).all(axis=2).any()


def test_sheet_has_a_column_per_member_and_a_legend(tmp_path):
    image = np.full((300, 400, 3), GRAY, np.uint8)
    found = dict(student=boxes((10, 20, 200, 100)), ensemble=boxes())
    draw_overlay([BoxPanel(image, found, title='x')] * 2, ('a', 'b'), tmp_path / 'x.png')
    with Image.open(tmp_path / 'x.png') as sheet:
        pixels = np.array(sheet)
    side, gap, line = 512, 8, 24
    assert pixels.shape == (2 * (line + 384 + gap) + line + gap, gap + 3 * (side + gap), 3)
    plain, student, empty = (
        pixels[line : line + 384, gap + column * (side + gap) :][:, :side] for column in range(3)
    )
    assert (plain == GRAY).all()
    assert (empty == GRAY).all()
    assert extent(student, pixels[line + 60, gap + (side + gap) + 13])[2] == 200 * 1.28 - 1


def test_images_with_the_most_boxes_are_drawn():
    counts = [0, 3, 1, 0, 2, 0, 5, 0, 0]
    image = np.zeros((4, 4, 3), np.uint8)
    rows = [
        BoxPanel(image, dict(ensemble=boxes(*[(0, 0, 1, 1)] * count)), title=str(index))
        for index, count in enumerate(counts)
    ]
    largest = LargestForeground(9)
    for index, row in enumerate(rows):
        largest.add(index, row)
    assert [one.title for one in largest.panels] == ['1', '2', '4', '6']
