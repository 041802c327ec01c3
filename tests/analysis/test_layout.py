"""No text of a figure is cut off or overlaps another one, for all kinds of data."""

import itertools

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from mmkdml.analysis.case_figure import SheetCell, draw_cells
from mmkdml.analysis.cka import COLUMNS
from mmkdml.analysis.cka_figure import draw_cka

LONG = 'r50_r18x2_v3_lgg with a very long name, distilled for 300 epochs'
CLASS = 'actinic keratosis or intraepithelial carcinoma'


@pytest.fixture
def figure(monkeypatch):
    """Figures that the test would save."""
    figures = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, path, **options: figures.append(self))
    return figures


def check_texts(figure):
    """Check that all texts are inside of the canvas and do not overlap; tolerate one pixel."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = [one for one in figure.findobj(Text) if one.get_text().strip() and one.get_visible()]
    boxes = np.array([one.get_window_extent(canvas.get_renderer()).extents for one in texts])
    assert (boxes[:, :2] >= -1).all()
    assert (boxes[:, 2:] <= np.array(figure.bbox.extents[2:]) + 1).all()
    low, high = boxes[:, None, :2] + 1, boxes[:, None, 2:] - 1
    overlap = ((low < high.swapaxes(0, 1)) & (low.swapaxes(0, 1) < high)).all(axis=2)
    np.fill_diagonal(overlap, False)
    assert not [(texts[i].get_text(), texts[k].get_text()) for i, k in np.argwhere(overlap)]


@pytest.mark.parametrize(
    ('size', 'members', 'width', 'long'),
    [((40, 30), 2, 7.2, False), ((30, 40), 4, 7.2, True), ((40, 30), 1, 3.5, True)],
)
def test_case_sheet(figure, tmp_path, size, members, width, long):
    image = np.full((*size, 3), 90, np.uint8)
    mask = np.zeros(size, bool)
    mask[5:20, 10:15] = True
    heat = np.random.default_rng(0).random(size)
    caption = f'✗ {CLASS} 36 %' if long else 'IoU 88.8 %, Dice 88.8 %'
    cells = {'image': SheetCell(image, caption=caption)}
    for index in range(members):
        name = 'student_with_a_long_name' if long else 'student'
        cells[f'{name}_{index}'] = SheetCell(
            image, heat, mask, mask, caption=caption, subtitle='stage 2 (1024 ch, 1/16)'
        )
    titles = ['TCGA_DU_5871_19941206_' * (4 if long else 1) + str(row) for row in range(2)]
    legend = {LONG: '#ff0000', **{f'class {index}': '#00ff00' for index in range(7)}}
    cells['image'] = SheetCell(image, caption=caption, legend=legend if long else {})
    bar = f'Grad-CAM for class {CLASS}\n(each map relative to its maximum)'
    heading = LONG * (2 if long else 1)
    draw_cells([cells, cells], titles, [tmp_path / 'a.png'], bar, heading, width)
    check_texts(figure[0])
    # All tiles are equal, and rows touch up to their captions.
    inches = figure[0].get_size_inches()
    tiles = [axes.get_position() for axes in figure[0].axes if axes.get_label() != '<colorbar>']
    sizes = np.array([tile.size * inches for tile in tiles])
    assert sizes == pytest.approx(np.broadcast_to(sizes[0], sizes.shape))
    assert sizes[0][1] / sizes[0][0] == pytest.approx(size[0] / size[1])
    gap = (tiles[0].y0 - tiles[members + 1].y1) * inches[1]
    lines = max(text.get_text().count('\n') + 1 for text in figure[0].texts) + 4
    assert gap < 0.12 * lines


def cka_table(pair, rows, columns):
    return pd.DataFrame(
        [
            [pair[0], f'a{row}', f'stage {row} (1024 ch, 1/16)',
             pair[1], f'b{column}', f'decoder {column} (64 ch)', (row + column) / 20, 9]
            for row, column in itertools.product(range(rows), range(columns))
        ],
        columns=COLUMNS,
    )  # fmt: skip


@pytest.mark.parametrize(('members', 'runs', 'width'), [(3, 1, 7.2), (2, 2, 3.5)])
def test_cka(figure, tmp_path, members, runs, width):
    names = ['teacher', *(f'student_{index}' for index in range(1, members))]
    pairs = list(itertools.combinations(names, 2)) or [('model', 'model')]
    tables = {
        f'{LONG} {run}': pd.concat(
            [cka_table(pair, 4 - index % 2, 3 + index % 2) for index, pair in enumerate(pairs)]
        )
        for run in range(runs)
    }
    draw_cka(tables, [tmp_path / 'a.png'], width)
    check_texts(figure[0])
