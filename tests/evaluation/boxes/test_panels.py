import copy

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from mmkdml.evaluation.boxes.panels import BoxPanel, Comparison, compare_boxes, draw_box_sheet
from mmkdml.evaluation.boxes.samples import Boxes, TrueBoxes
from mmkdml.figures.style import TRUTH_COLOR, class_color

A, B, C, FAR = (0, 0, 10, 10), (20, 0, 30, 10), (0, 20, 10, 30), (30, 30, 38, 38)


def predicted(*boxes, labels=None):
    number = len(boxes)
    corners = np.array(boxes, dtype=float).reshape(-1, 4)
    return Boxes(corners, np.full(number, 0.5), np.array(labels or [0] * number, dtype=int))


def true(*boxes, labels=None, ignored=None):
    number = len(boxes)
    return TrueBoxes(
        np.array(boxes, dtype=float).reshape(-1, 4),
        np.array(labels or [0] * number, dtype=int),
        np.array(ignored or [False] * number, dtype=bool),
    )


def panel(boxes, truth, title='', size=40):
    return BoxPanel(np.full((size, size, 3), 90, np.uint8), boxes, truth, title)


@pytest.mark.parametrize(
    ('boxes', 'truth', 'parts', 'f1', 'text'),
    [
        (predicted(A, FAR), true(A, B), ([0], [1], [1]), 50, '1 of 2 found, 1 false'),
        (predicted(A, A), true(A), ([0], [1], []), 200 / 3, '1 of 1 found, 1 false'),
        (predicted(A, labels=[1]), true(A), ([], [0], [0]), 0, '0 of 1 found, 1 false'),
        (predicted(), true(B), ([], [], [0]), 0, '0 of 1 found, 0 false'),
        (predicted(A), true(), ([], [0], []), 0, 'no true boxes, 1 false'),
        (predicted(), true(), ([], [], []), np.nan, 'no true boxes, 0 false'),
        # A box that is matched with an ignored one is neither found nor false.
        (predicted(A, B), true(A, B, C, ignored=[1, 0, 0]), ([1], [], [2]), 200 / 3,
         '1 of 2 found, 0 false'),
    ],
)  # fmt: skip
def test_found_false_and_missed(boxes, truth, parts, f1, text):
    compared = compare_boxes(boxes, truth)
    assert tuple(part.tolist() for part in compared) == parts
    assert compared.f1 == pytest.approx(f1, nan_ok=True)
    assert str(compared) == text


def test_counts_are_those_of_a_perfect_detector():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 50, (9, 2))
    boxes = np.hstack([corners, corners + rng.uniform(5, 20, (9, 2))])
    compared = compare_boxes(predicted(*boxes), true(*boxes))
    assert isinstance(compared, Comparison)
    assert compared.f1 == 100


def test_captions_and_legend(tmp_path, figure):
    truth = true(A, B, C, labels=[0, 1, 0], ignored=[0, 0, 1])
    rows = [panel(dict(teacher=predicted(A), ensemble=predicted()), truth, name) for name in 'ab']
    draw_box_sheet(rows, tmp_path / 'new' / 'x.png', ('cell', 'dot'))
    texts = [text.get_text() for text in figure[0].texts if text.get_text()]
    captions = ['2 boxes, 1 ignored', '1 of 2 found, 0 false', '0 of 2 found, 0 false']
    assert texts == ['truth', 'teacher', 'ensemble', *captions, 'a', *captions, 'b']
    (legend,) = figure[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ['found', 'false', 'missed', 'cell', 'dot']
    draw_box_sheet(rows[:1], tmp_path / 'x.png')
    labels = [text.get_text() for text in figure[1].legends[0].get_texts()]
    assert labels[3:] == ['class 0', 'class 1']


def test_lines_and_colors(tmp_path, figure):
    truth = true(A, B, labels=[1, 0])
    found = predicted(A, FAR, labels=[1, 0])
    draw_box_sheet([panel(dict(model=found), truth)], tmp_path / 'x.png')

    def lines(axes):
        return [
            (
                patch.get_xy(),
                patch.get_width(),
                patch.get_height(),
                to_rgb(patch.get_edgecolor()),
                patch.get_linestyle() in ('-', 'solid'),
            )
            for patch in axes.patches
        ]

    first, second = (to_rgb(class_color(index)) for index in (0, 1))
    left, right = figure[0].axes
    # The first pixel of an image is drawn from -0.5 to 0.5.
    assert lines(left) == [
        ((-0.5, -0.5), 10, 10, second, True), ((19.5, -0.5), 10, 10, first, True),
    ]  # fmt: skip
    assert lines(right) == [
        ((-0.5, -0.5), 10, 10, second, True),
        ((29.5, 29.5), 8, 8, first, False),
        ((19.5, -0.5), 10, 10, to_rgb(TRUTH_COLOR), False),
    ]
    assert left.get_xlim() == (-0.5, 39.5)


def test_inputs_are_not_changed_and_files_are_equal(tmp_path):
    row = panel(dict(model=predicted(A, FAR)), true(A, B))
    before = copy.deepcopy(row)
    for name in 'ab':
        draw_box_sheet([row], tmp_path / f'{name}.png')
    np.testing.assert_equal(row, before)
    assert (tmp_path / 'a.png').read_bytes() == (tmp_path / 'b.png').read_bytes()
    with Image.open(tmp_path / 'a.png') as image:
        assert image.width > 2 * 300


def test_invalid_panels_raise(tmp_path):
    one = panel(dict(model=predicted(A)), true(A))
    for rows in (
        [],
        [one, panel(dict(teacher=predicted()), true(A))],
        [one._replace(truth=None)],
        [one._replace(image=one.image[..., 0])],
        [one._replace(image=one.image / 255)],
    ):
        with pytest.raises(ValueError, match='Invalid panels: expected at least one.*columns'):
            draw_box_sheet(rows, tmp_path / 'x.png')
