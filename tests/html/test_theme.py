import pytest

from mmkdml.figures import PALETTE
from mmkdml.html.theme import COLORS, SERIES, color_css


def contrast(one, other):
    """Contrast ratio of WCAG 2."""

    def luminance(color):
        parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


def test_contrast_of_black_and_white():
    assert contrast('#ffffff', '#000000') == pytest.approx(21)


@pytest.mark.parametrize('theme', [0, 1])
def test_text_is_readable_on_every_background(theme):
    for text in ('text', 'muted', 'link'):
        for background in ('bg', 'surface', 'raised', 'hover'):
            assert contrast(COLORS[text][theme], COLORS[background][theme]) >= 4.5
    for text, background in (('good', 'good-bg'), ('bad', 'bad-bg'), ('muted', 'neutral-bg')):
        assert contrast(COLORS[text][theme], COLORS[background][theme]) >= 4.5
    assert contrast(COLORS['link'][theme], COLORS['accent-bg'][theme]) >= 4.5
    assert contrast(COLORS['focus'][theme], COLORS['bg'][theme]) >= 3


def test_colors_are_those_of_figures():
    assert (*SERIES[:-1], '#000000') == PALETTE
    assert SERIES[-1] == 'var(--text)'


def test_dark_colors_are_only_for_screens():
    for part in color_css().splitlines():
        assert COLORS['bg'][1] not in part or 'data-theme' in part
    assert color_css().count('@media screen') == 2
    assert all(color in color_css() for color in SERIES)
