import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmkdml.figures.text import text_height, text_width, wrap


@pytest.mark.parametrize('text', ['Dice', 'TCGA_DU_6407_19860514', '✗ naevus 36 %', 'one\nlonger'])
@pytest.mark.parametrize('size', [6.5, 10])
def test_width_is_that_of_drawn_text(text, size):
    figure = Figure(dpi=200)
    drawn = figure.text(0, 0, text, fontsize=size)
    box = drawn.get_window_extent(FigureCanvasAgg(figure).get_renderer())
    assert text_width(text, size) * 200 == pytest.approx(box.width, rel=0.05, abs=2)


def test_wrapped_lines_fit_and_keep_the_text():
    text = 'TCGA_DU_6407_19860514 actinic keratosis or intraepithelial carcinoma'
    wrapped = wrap(text, 1.0, 7, max_lines=9)
    lines = wrapped.split('\n')
    assert len(lines) > 3
    assert all(text_width(line, 7) <= 1.0 for line in lines)
    assert ''.join(wrapped.split()) == ''.join(text.split())
    assert text_height(wrapped, 7) == pytest.approx(len(lines) * text_height('a', 7))


def test_text_of_too_many_lines_loses_its_middle():
    text = 'start ' + 'word ' * 30 + 'end'
    short = wrap(text, 1.0, 7, max_lines=2)
    assert short.count('\n') == 1
    assert short.startswith('start')
    assert short.endswith('end')
    assert short.count('…') == 1
    assert all(text_width(line, 7) <= 1.0 for line in short.split('\n'))
    assert wrap('', 1.0, 7) == '' == wrap('   ', 1.0, 7)
    assert text_height('', 7) == text_width('', 7) == 0
