"""Overlays by the colors and positions of the drawn pixels."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image, ImageFont

from mmkdml.apis.prediction import overlays
from mmkdml.apis.prediction.case_outputs import LargestForeground
from mmkdml.apis.prediction.overlays import draw_overlay
from mmkdml.evaluation.mask_panels import Panel
from mmkdml.figures.style import PREDICTION_COLOR

COLOR = np.round(255 * np.array(to_rgb(PREDICTION_COLOR)))
SIDE, GAP, LINE = 384, 8, 24
CLASSES = ('healthy', 'ill')


def panel(masks, height=96, width=64, title='a case'):
    image = np.full((height, width, 3), 90, np.uint8)
    return Panel(image, dict(enumerate(masks)), title)


def draw(tmp_path, panels, classes=CLASSES):
    draw_overlay(panels, classes[1:], tmp_path / 'new' / 'x.png')
    with Image.open(tmp_path / 'new' / 'x.png') as sheet:
        assert sheet.mode == 'RGB'
        return np.array(sheet).astype(int)


def tiles(sheet, rows, columns, height, width):
    return [
        [
            sheet[row * (LINE + height + GAP) + LINE :, GAP + column * (width + GAP) :][
                :height, :width
            ]
            for column in range(columns)
        ]
        for row in range(rows)
    ]


def box(where):
    """Return the first and last row and column."""
    return [(int(places.min()), int(places.max())) for places in np.nonzero(where)]


@pytest.mark.parametrize('factor', [1, 4, 16])  # enlarged, unscaled, reduced
def test_region_is_tinted_and_outlined(tmp_path, factor):
    height, width = 96 * factor, 64 * factor
    mask = np.zeros((height, width), np.uint8)
    mask[height // 4 : height // 2, width // 2 :] = 1
    mask[height // 3 : height * 5 // 12, width * 3 // 4 : width * 7 // 8] = 0  # a hole
    before = mask.copy()
    sheet = draw(tmp_path, [panel([mask, 0 * mask], height, width)])
    ((image, drawn, empty),) = tiles(sheet, 1, 3, SIDE, 256)
    assert sheet.shape == (LINE + SIDE + LINE + 2 * GAP, GAP + 3 * (256 + GAP), 3)
    assert (image == 90).all()
    assert (empty == 90).all()
    changed = (drawn != 90).any(axis=2)
    (top, bottom), (left, right) = box(changed)
    assert abs(top - SIDE / 4) <= 3
    assert abs(bottom - SIDE / 2) <= 3
    assert abs(left - 128) <= 3
    assert right == 255
    inside = drawn[SIDE // 4 + 10 : SIDE // 3 - 10, 140:240]
    np.testing.assert_allclose(
        inside, np.broadcast_to(0.7 * 90 + 0.3 * COLOR, inside.shape), atol=1
    )
    assert (drawn[SIDE // 3 + 8 : SIDE * 5 // 12 - 8, 192 + 8 : 224 - 8] == 90).all()
    assert (np.abs(drawn - COLOR).max(axis=2) < 20).sum() > 200  # the outline
    np.testing.assert_array_equal(mask, before)


@pytest.mark.parametrize('size', [64, 4096])
def test_single_pixel_remains_visible(tmp_path, size):
    """Reducing 4096 rows keeps about every tenth, but not this one."""
    mask = np.zeros((size, size), np.uint8)
    row, column = size // 2 + 5, size // 4 + 5
    mask[row, column] = 1
    ((_, drawn),) = tiles(draw(tmp_path, [panel([mask], size, size)]), 1, 2, SIDE, SIDE)
    (top, bottom), (left, right) = box(np.abs(drawn - COLOR).max(axis=2) < 60)
    assert top - 6 <= row * SIDE / size <= bottom + 6
    assert left - 6 <= column * SIDE / size <= right + 6
    assert bottom - top >= 1


def test_each_class_has_its_color_and_a_legend(tmp_path):
    mask = np.zeros((96, 96), np.uint8)
    mask[:40], mask[60:] = 1, 2
    sheet = draw(tmp_path, [panel([mask], 96, 96)] * 2, ('none', 'one', 'two'))
    assert len(sheet) == 2 * (LINE + SIDE + GAP) + LINE + GAP
    ((_, drawn), _) = tiles(sheet, 2, 2, SIDE, SIDE)
    legend = sheet[2 * (LINE + SIDE + GAP) :]
    assert (drawn[50, 50] != drawn[350, 50]).any()
    for shade in (drawn[50, 50], drawn[350, 50]):  # both colors are in the legend
        color = (shade - 0.7 * 90) / 0.3
        assert (np.abs(legend - color).max(axis=2) < 5).sum() > 100
    assert (drawn[200, 50] == 90).all()


def test_columns_are_titled_with_member_and_pixel_count(tmp_path, monkeypatch):
    texts = []
    monkeypatch.setattr(
        overlays.ImageDraw.ImageDraw,
        'text',
        lambda self, place, text, *args, **options: texts.append(text),
    )
    mask = np.zeros((9, 9), np.uint8)
    mask[2:4, 2:5] = 1
    rows = [Panel(np.zeros((9, 9, 3), np.uint8), dict(teacher=mask, ensemble=0 * mask), 'a')] * 2
    draw_overlay(rows, CLASSES[1:], tmp_path / 'x.png')
    assert texts == [*['a', 'teacher: 6 px', 'ensemble: 0 px'] * 2, 'ill']


def test_long_names_are_shortened_in_the_middle():
    font = ImageFont.truetype(str(overlays._FONT), 14)
    name = 'TCGA_DU_5871_19941206_' * 6 + '19'
    short = overlays._shortened(name, SIDE, font)
    assert font.getlength(short) <= SIDE < font.getlength(short + 'm')
    first, last = short.split('…')
    assert name.startswith(first)
    assert name.endswith(last)
    assert abs(len(first) - len(last)) <= 1
    assert overlays._shortened('$a$ ö.png', SIDE, font) == '$a$ ö.png'
    assert overlays._shortened('abcdef', 1, font) == 'a…f'


def test_known_spacing_gives_true_proportions_areas_and_a_scale_bar(tmp_path, monkeypatch):
    texts = []
    write = overlays.ImageDraw.ImageDraw.text
    monkeypatch.setattr(
        overlays.ImageDraw.ImageDraw,
        'text',
        lambda self, place, text, *args, **options: (
            texts.append(text),
            write(self, place, text, *args, **options),
        ),
    )
    mask = np.zeros((40, 128), np.uint8)
    mask[10:20, 32:64] = 1
    image = np.full((40, 128, 3), 90, np.uint8)
    # 200 mm high and 128 mm wide: each drawn pixel is 200 / 384 mm.
    sheet = draw(tmp_path, [Panel(image, dict(a=mask), 'x', (5.0, 1.0))])
    width = round(SIDE * 128 / 200)
    ((image, drawn),) = tiles(sheet, 1, 2, SIDE, width)
    (top, bottom), (left, right) = box((drawn != 90).any(axis=2))
    assert [top, bottom, left, right] == pytest.approx(
        [SIDE / 4, SIDE / 2, width / 4, width / 2], abs=3
    )
    white = (image == 255).all(axis=2)
    bar = white[white.sum(axis=1).argmax()].sum()
    assert texts == ['20 mm', 'x', 'a: 320 px, 16.0 cm²', 'ill']
    assert bar == pytest.approx(20 * SIDE / 200, abs=2)


def test_legend_of_many_classes_is_wrapped(tmp_path):
    names = ('none', *(f'a class with a long name {index}' for index in range(12)))
    sheet = draw(tmp_path, [panel([np.zeros((96, 64), np.uint8)])], names)
    assert sheet.shape[1] == 2 * (256 + GAP) + GAP
    assert len(sheet) == LINE + SIDE + 6 * LINE + 2 * GAP
    assert len({overlays.foreground_color(index) for index in range(12)}) == 12
    assert (sheet[:, -GAP:] == 255).all()


def test_images_with_the_most_foreground_are_drawn():
    def stack(counts, own=()):
        images = []
        for index in range(9):
            masks = np.zeros((2, 4, 9), np.uint8)
            masks[1].flat[: counts.get(index, 0)] = 1
            masks[0].flat[: dict(own).get(index, 0)] = 1
            images.append(Panel(masks[0], dict(student=masks[0], ensemble=masks[1]), str(index)))
        largest = LargestForeground(9)
        for index, panel in enumerate(images):
            largest.add(index, panel)
        return [one.title for one in largest.panels]

    assert stack({1: 4, 2: 1, 3: 8, 5: 2, 8: 3}) == ['1', '3', '5', '8']
    assert stack({7: 1}, {0: 5}) == ['0', '3', '4', '7']  # then those of members, then the middle
