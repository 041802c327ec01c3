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


@pytest.fixture
def titles(monkeypatch):
    """List of the drawn titles."""
    drawn = []
    original = module.Axes.set_title
    monkeypatch.setattr(
        module.Axes,
        'set_title',
        lambda self, label, **kwargs: (drawn.append(label), original(self, label, **kwargs))[1],
    )
    return drawn


def test_titles_have_column_name_and_iou(tmp_path, titles):
    truth = square(4, 12)  # 64 pixels
    masks = dict(truth=truth, teacher=truth, student_1=square(8, 12), student_2=0 * truth)
    draw_panel(grey(), masks, tmp_path / 'new' / 'panel.png')
    assert titles == [
        'image',
        'truth',
        'teacher\nIoU 100.0',
        'student_1\nIoU 25.0',
        'student_2\nIoU 0.0',
    ]
    assert (tmp_path / 'new' / 'panel.png').read_bytes().startswith(b'\x89PNG')


def test_ignored_pixels_and_empty_masks(tmp_path, titles):
    truth = square(4, 12)
    truth[:8] = 255
    masks = dict(truth=truth, model=square(4, 12))
    draw_panel(grey(), masks, tmp_path / 'a.png')
    draw_panel(grey(), dict(truth=square(0, 0), model=square(0, 0)), tmp_path / 'b.png')
    assert titles[2] == 'model\nIoU 100.0'
    assert titles[5] == 'model\nboth empty'


def test_only_the_first_row_names_the_columns(tmp_path, titles):
    rows = [Panel(grey(), dict(truth=square(4, 12), model=square(4, 8)), name) for name in 'ab']
    draw_sheet(rows, tmp_path / 'sheet.png')
    assert titles == ['image', 'truth', 'model\nIoU 25.0', '', '', 'IoU 25.0']


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


def test_truth_is_optional(tmp_path, titles):
    draw_panel(grey(), dict(model=square(4, 12)), tmp_path / 'panel.png')
    assert titles == ['image', 'model']


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
