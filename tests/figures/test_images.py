"""Images of every kind of figure: all texts are inside, apart and readable; hashes are as stored.

After an intended change, look at the figures and store their hashes again:

    MMKDML_STORE_FIGURES=FOLDER python -m pytest tests/figures  # also saves the images to FOLDER
"""

import json
import os
from itertools import combinations, product
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from mmkdml.analysis.case_figure import SheetCell, draw_cells
from mmkdml.analysis.cka import COLUMNS
from mmkdml.analysis.cka_figure import draw_cka
from mmkdml.evaluation import Panel, draw_reliability, draw_sheet
from mmkdml.experiments.report.figures import draw_balance, draw_curves
from mmkdml.experiments.tuning.ternary import draw_landscape
from mmkdml.figures import figure_style, member_color, save_figure
from mmkdml.figures.confusion import draw_confusion
from mmkdml.statistics.records import RunRecord, SuiteRecord

HASHES = Path(__file__).with_name('hashes.json')
STORE = os.environ.get('MMKDML_STORE_FIGURES')
SHAPES = {'1:1': (48, 48), '4:3': (48, 64), '3:4': (64, 48)}
LONG = 'a_member_with_a_rather_long_name_for_a_title'
MEMBERS = {
    1: ('model',),
    2: ('teacher', 'student_1'),
    3: ('teacher', LONG, 'ensemble'),
    4: ('teacher', 'student_1', 'student_2', 'ensemble'),
}
CLASSES = ('akiec', 'bcc', 'benign keratosis-like lesions', 'df', 'mel', 'nv', 'vasc')
TOLERANCE = 1.0  # pixels
MOST_BITS = 24  # of 256 that may differ


def render(figure, dpi=50):
    """Render a figure; return its image, and the drawn texts with their boxes."""
    drawn = []
    draw = Text.draw

    def record(self, renderer, *args, **kwargs):
        draw(self, renderer, *args, **kwargs)
        if self.get_visible() and self.get_text().strip():
            drawn.append((self, self.get_window_extent(renderer)))

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    with patch.object(Text, 'draw', record), figure_style():
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert('RGB'), drawn


def assert_texts_inside(figure, min_size=7):
    """Assert that all texts are inside the canvas, apart and large enough; return the image."""
    image, drawn = render(figure)
    for text, box in drawn:
        outside = [-box.x0, -box.y0, box.x1 - figure.bbox.x1, box.y1 - figure.bbox.y1]
        assert max(outside) <= TOLERANCE, f'{text.get_text()!r} leaves the canvas: {outside}'
        assert text.get_fontsize() >= min_size, f'{text.get_text()!r}: {text.get_fontsize()} pt'
        assert '$' not in text.get_text(), f'{text.get_text()!r} is not parsed'
    # The box of an oblique text contains much that is not text.
    straight = [(text.get_text(), box) for text, box in drawn if text.get_rotation() % 90 == 0]
    for (one, a), (other, b) in combinations(straight, 2):
        width = min(a.x1, b.x1) - max(a.x0, b.x0)
        height = min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(width, height) <= TOLERANCE, f'{one!r} and {other!r} overlap'
    return image


def difference_hash(image):
    """Hash an image: whether each of 16x16 areas is darker than the one to its right."""
    small = np.asarray(image.convert('L').resize((17, 16), Image.Resampling.BOX), int)
    return np.packbits(np.diff(small) > 2).tobytes().hex()


def panels(shape, classes, members, rows=2):
    height, width = SHAPES[shape]
    y, x = np.ogrid[:height, :width]
    image = np.broadcast_to((60 + x + y)[..., None], (height, width, 3)).astype(np.uint8)
    labels = (x * (classes + 1) // width) * (abs(y - height / 2) < height / 5)
    masks = {'truth': labels} | {name: np.roll(labels, 4, 0) for name in members}
    masks[members[-1]] = 0 * labels  # found nothing
    masks = {name: mask.astype(np.uint8) for name, mask in masks.items()}
    return [Panel(image, masks, f'TCGA_DU_6407_19860514_{row}', (0.9, 0.9)) for row in range(rows)]


def sheet(path, shape, classes, number):
    names = ('background', *CLASSES[:classes])
    draw_sheet(panels(shape, classes, MEMBERS[number]), path, names)


def cases(path, shape, number):
    rows = []
    for panel in panels(shape, 1, MEMBERS[number]):
        heat = np.linspace(0, 1, panel.image.shape[1])[None].repeat(len(panel.image), 0)
        truth = panel.masks['truth'] > 0
        row = {'image': SheetCell(panel.image, caption=panel.title)}
        for name in MEMBERS[number]:
            row[name] = SheetCell(panel.image, heat, truth, panel.masks[name] > 0, 'IoU 81.3 %')
        rows.append(row)
    titles = [panel.title for panel in panels(shape, 1, MEMBERS[number])]
    draw_cells(rows, titles, [path], 'class activation, relative to its maximum', LONG * 4)


def cka(path, number):
    pairs = list(combinations(MEMBERS[4], 2))[: number - 1]
    rows = [
        [
            one,
            f'layer{i}',
            f'stage {i + 1}',
            other,
            f'layer{j}',
            f'stage {j + 1}',
            0.9 - i * j / 20,
            64,
        ]
        for one, other in pairs
        for i, j in product(range(4), range(5))
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    draw_cka({'kdml_v3': table, LONG: table}, [path])


def reliability(path, number, regions):
    edges = np.linspace(0, 1, 16)
    counts = np.arange(15) ** 3 * (edges[:-1] >= 0.5)
    known = np.where(counts > 0, 1.0, np.nan)
    table = pd.concat(
        pd.DataFrame(
            dict(
                region=region,
                member=member,
                low=edges[:-1],
                high=edges[1:],
                count=counts,
                confidence=known * (edges[:-1] + 0.03),
                accuracy=known * edges[:-1] ** (1.2 + place / 2),
            )
        )
        for region in ('all', 'near foreground')[:regions]
        for place, member in enumerate(MEMBERS[number])
    )
    draw_reliability(table, path)


def confusion(path, classes, number):
    matrix = np.arange(classes**2).reshape(classes, classes) + 90 * np.eye(classes, dtype=int)
    draw_confusion(dict.fromkeys(MEMBERS[number], matrix), CLASSES[:classes], path)


def landscape(path, letters, tied):
    points = [(a / 10, b / 10) for a, b in product(range(1, 9), repeat=2) if a + b < 10]
    if len(letters) == 2:
        points = [(a / 10,) for a in range(1, 10)]
    rows = []
    for trial, point in enumerate(points):
        weights = (*point, 1 - sum(point))
        for number, own in zip('12', (weights, weights if tied else weights[::-1]), strict=True):
            rows.append(
                {f'{letter}_{number}': one for letter, one in zip(letters, own, strict=True)}
            )
        rows[-2:] = [rows[-2] | rows[-1]]
        rows[-1] |= dict(trial=trial, state='pruned' if trial == 3 else 'complete', value=point[0])
    save_figure(draw_landscape(pd.DataFrame(rows), 'ensemble/foreground/IoU', 5), path)


def record(name, mode, *keys):
    rows = [(e, key, 50 + 9 * np.log(e) + k) for e in range(1, 7) for k, key in enumerate(keys)]
    curves = pd.DataFrame(rows, columns=['epoch', 'key', 'value'])
    return RunRecord(name, 0, mode, 'v1', 'done', curves=curves)


def curves(path, modes):
    names = ('v1', 'v2', LONG)
    runs = [record(f'{mode}/{name}', mode, 'x') for mode in modes for name in names]
    suite = SuiteRecord('mini', 'A small one', ('IoU',), (), runs)
    save_figure(draw_curves(suite, ['x'], 'IoU (%)', same_scale=True), path)


def balance(path):
    ends = ('1.from_teacher.features', '1.from_student_2.predictions', '2.from_teacher.features')
    runs = [record('a', 'kdml', *(f'gradient_ratio/student_{end}' for end in ends))]
    save_figure(draw_balance({'kdml_v3': runs, LONG: runs}), path)


GRID = [
    *((sheet, shape, k, 1 + i % 4) for i, (shape, k) in enumerate(product(SHAPES, (1, 2, 7)))),
    *((cases, shape, number) for shape, number in zip(SHAPES, (1, 3, 4), strict=True)),
    *((cka, number) for number in (2, 4)),
    *((reliability, number, regions) for number, regions in ((1, 2), (3, 1), (4, 2))),
    *((confusion, classes, number) for classes, number in ((2, 1), (7, 4))),
    (landscape, ('alpha', 'beta', 'gamma'), False),
    (landscape, ('alpha', 'gamma'), True),
    (curves, ('kdml',)),
    (curves, ('baseline', 'kd_on', 'ml', 'kdml')),
    (balance,),
]


def name_of(case):
    draw, *args = case
    return '-'.join(
        [draw.__name__, *(str(len(arg)) if isinstance(arg, tuple) else str(arg) for arg in args)]
    )


@pytest.mark.parametrize('case', GRID, ids=name_of)
def test_figure(case, monkeypatch, tmp_path):
    figures = []
    monkeypatch.setattr(Figure, 'savefig', lambda self, path, **kwargs: figures.append(self))
    draw, *args = case
    draw(tmp_path / 'a.png', *args)
    image = assert_texts_inside(figures[0])
    own, stored = difference_hash(image), json.loads(HASHES.read_text())
    if STORE:
        stored[name_of(case)] = own
        HASHES.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + '\n')
        render(figures[0], 110)[0].save(Path(STORE, f'{name_of(case)}.png'.replace(':', '_')))
    bits = (int(own, 16) ^ int(stored[name_of(case)], 16)).bit_count()
    assert bits <= MOST_BITS, f'{bits} bits differ'


def test_members_keep_their_colors_in_every_figure():
    names = MEMBERS[4]
    assert len({member_color(name, names) for name in names}) == 4
    assert [member_color(name) for name in names] == [member_color(name, names) for name in names]
    assert member_color('student_2', ('teacher', 'student_2')) == member_color('student_2')
    names = ('teacher', 'teacher_2', 'assistant', 'student_1', 'student_2')
    assert len({member_color(name, names) for name in names}) == 5


def test_equal_figures_are_equal_files(tmp_path):
    for suffix in ('png', 'svg', 'pdf'):
        for name in 'ab':
            with figure_style():
                figure = Figure((1, 1))
                figure.subplots().plot([1, 2])
            save_figure(figure, tmp_path / f'{name}.{suffix}')
        first, second = ((tmp_path / f'{name}.{suffix}').read_bytes() for name in 'ab')
        assert first == second
        assert b'CreationDate' not in first


@pytest.mark.parametrize(('x', 'y', 'size'), [(0.95, 0.5, 8), (0.5, 0.5, 8), (0.1, 0.2, 5)])
def test_checks_find_bad_texts(x, y, size):
    figure = Figure((3, 2))
    figure.text(0.4, 0.5, 'first label')
    figure.text(x, y, 'second label', fontsize=size)
    with pytest.raises(AssertionError, match=r'label.*(leaves|overlap|5.0 pt)'):
        assert_texts_inside(figure)
