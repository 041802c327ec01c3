import copy

import mmcv
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mmkdml.evaluation import Panel, draw_panel, draw_sheet
from mmkdml.evaluation import mask_panels as module


def square(start, stop, size=24):
    mask = np.zeros((size, size), np.uint8)
    mask[start:stop, start:stop] = 1
    return mask


def grey(size=24):
    return np.full((size, size, 3), 90, np.uint8)


def amount(path, color):
    """Count the pixels of an image file that are close to a color."""
    target = 255 * np.array(to_rgb(color))
    return (np.abs(mmcv.imread(path, channel_order='rgb') - target).max(-1) < 20).sum()


def texts(figure):
    """Return the texts of a figure: column titles, then captions and title row by row."""
    return [text.get_text() for text in figure.texts if text.get_text()]


def test_titles_have_column_name_and_iou(tmp_path, figure):
    truth = square(4, 12)  # 64 pixels
    masks = dict(truth=truth, teacher=truth, student_1=square(8, 12), student_2=0 * truth)
    draw_panel(grey(), masks, tmp_path / 'new' / 'panel.png')
    assert texts(figure[0]) == [
        *('image', 'truth', 'teacher', 'student_1', 'student_2'),
        *('IoU 100.0 %', 'IoU 25.0 %', 'IoU 0.0 %, found nothing'),
    ]
    assert (tmp_path / 'new' / 'panel.png').read_bytes().startswith(b'\x89PNG')


def test_ignored_pixels_and_empty_masks(tmp_path, figure):
    truth = square(4, 12)
    truth[:8] = 255
    masks = dict(truth=truth, model=square(4, 12))
    draw_panel(grey(), masks, tmp_path / 'a.png')
    draw_panel(grey(), dict(truth=square(0, 0), model=square(0, 0)), tmp_path / 'b.png')
    draw_panel(grey(), dict(model=square(0, 0)), tmp_path / 'c.png')
    assert texts(figure[0])[3:] == ['IoU 100.0 %']
    assert texts(figure[1])[3:] == ['truth is empty', 'both empty']
    assert texts(figure[2])[2:] == ['found nothing']


def test_only_the_first_row_names_the_columns(tmp_path, figure):
    rows = [Panel(grey(), dict(truth=square(4, 12), model=square(4, 8)), name) for name in 'ab']
    draw_sheet(rows, tmp_path / 'sheet.png')
    assert texts(figure[0]) == ['image', 'truth', 'model', 'IoU 25.0 %', 'a', 'IoU 25.0 %', 'b']


def test_classes_are_named_and_scored_separately(tmp_path, figure):
    truth = np.maximum(square(0, 4), 2 * square(8, 12))
    masks = dict(truth=truth, model=np.maximum(square(0, 4), 3 * square(16, 18)))
    draw_panel(grey(), masks, tmp_path / 'a.png', ('background', 'edema', 'core', 'enhancing'))
    assert texts(figure[0])[3:] == ['mean IoU 33.3 %']  # 100, 0 and 0
    (legend,) = figure[0].legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ['truth', 'prediction', 'edema', 'core', 'enhancing']


def test_scale_bar_where_the_spacing_is_known(tmp_path, figure):
    for spacing in (None, (1.0, 0.5)):
        draw_sheet([Panel(grey(), dict(model=square(2, 4)), spacing=spacing)], tmp_path / 'a.png')
    shapes = [one.axes[0].get_position().size * one.get_size_inches() for one in figure]
    assert [height / width for width, height in shapes] == pytest.approx([1, 2])
    bars = [[text.get_text() for text in one.axes[0].texts] for one in figure]
    assert bars == [[], ['2 mm']]  # a quarter of 24 pixels is 3 mm


def test_masks_are_drawn_in_their_colors(tmp_path):
    def colors(**masks):
        draw_panel(grey(), masks, tmp_path / 'panel.png')
        return [
            amount(tmp_path / 'panel.png', color)
            for color in (module.TRUTH_COLOR, module.PREDICTION_COLOR)
        ]

    empty = square(0, 0)
    no_green, no_magenta = colors(truth=empty, model=empty)  # legend only
    green, magenta = colors(truth=square(4, 12), model=empty)
    assert green > no_green + 200
    assert magenta == no_magenta
    assert colors(truth=255 * square(4, 12), model=empty) == [no_green, no_magenta]  # ignored
    green, magenta = colors(truth=empty, model=square(0, 24))  # every pixel
    assert green == no_green
    assert magenta > no_magenta + 200


def test_truth_is_optional(tmp_path, figure):
    draw_panel(grey(), dict(model=square(4, 12)), tmp_path / 'panel.png')
    assert texts(figure[0]) == ['image', 'model']


def test_inputs_are_not_changed(tmp_path):
    image, masks = grey(), dict(truth=square(4, 12), model=square(2, 9))
    before = copy.deepcopy((image, masks))
    draw_panel(image, masks, tmp_path / 'panel.png')
    np.testing.assert_equal((image, masks), before)


@pytest.mark.parametrize(
    ('panels', 'message'),
    [
        ([], 'panels: expected at least one, got none'),
        ([Panel(grey()[..., 0], {})], r'\(H, W, 3\) uint8, got \(24, 24\) uint8'),
        ([Panel(grey() / 255, {}, 'x')], r'got \(24, 24, 3\) float64 x'),
        (
            [Panel(grey(), dict(model=square(0, 1, 12)))],
            r"mask 'model': expected .*size \(24, 24\), got \(12, 12\)\. Resize",
        ),
        (
            [Panel(grey(), dict(a=square(0, 1))), Panel(grey(), dict(b=square(0, 1)))],
            r"masks: expected the same columns .* got \['a'\] and \['b'\]",
        ),
    ],
)
def test_invalid_panels_raise(tmp_path, panels, message):
    with pytest.raises(ValueError, match=message):
        draw_sheet(panels, tmp_path / 'sheet.png')
    assert list(tmp_path.iterdir()) == []
