import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from mmkdml.datasets import coco_boxes, make_demo_cells
from mmkdml.datasets.coco_json import read_coco
from mmkdml.datasets.images import read_image

TOOL = Path(__file__).parents[2] / 'tools' / 'dataset_converters' / 'make_demo_data.py'


@pytest.fixture(scope='module')
def cells(tmp_path_factory):
    return make_demo_cells(tmp_path_factory.mktemp('demo') / 'cells', patients=12, images=8)


def files_in(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def test_converter_accepts_the_cells(cells):
    found = coco_boxes(cells, ['annotations.json'], group_regex=r'(patient\d+)_')
    assert len(found.rows) == 96
    assert len({row.group for row in found.rows}) == 12
    assert found.classes == ('red cell', 'white cell')
    counts = np.array([len(image.boxes) for image in found.images])
    assert 2 <= (counts == 0).sum() <= 24
    assert counts.max() == 8
    labels = np.array([box.label for image in found.images for box in image.boxes])
    assert 0.15 < labels.mean() < 0.45


def test_boxes_fit_the_cells(cells):
    """Pixels that differ from the background are inside of boxes, and reach all four edges."""
    _, images = read_coco(cells / 'annotations.json')
    alone = 0
    for image in images:
        pixels = read_image(cells / image.path).astype(float)
        background = np.median(pixels.reshape(-1, 3), axis=0)
        differs = np.abs(pixels - background).max(axis=-1) > 30
        inside = np.zeros_like(differs)
        for box in image.boxes:
            x1, y1, x2, y2 = (round(value) for value in box.corners)
            inside[y1 : y2 + 1, x1 : x2 + 1] = True
        assert (differs & ~inside).mean() < 0.02  # specks
        if len(image.boxes) == 1 and image.boxes[0].label == 1:
            rows, columns = np.nonzero(differs & inside)
            found = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            (x1, y1, x2, y2) = image.boxes[0].corners
            nucleus = (found[2] - found[0]) * (found[3] - found[1]) / ((x2 - x1) * (y2 - y1))
            assert 0.2 < nucleus <= 1.1
            alone += 1
    assert alone


def test_some_cells_overlap(cells):
    _, images = read_coco(cells / 'annotations.json')
    overlapping = 0
    for image in images:
        for place, (x1, y1, x2, y2) in enumerate(box.corners for box in image.boxes):
            for other in image.boxes[:place]:
                a1, b1, a2, b2 = other.corners
                width, height = min(x2, a2) - max(x1, a1), min(y2, b2) - max(y1, b1)
                overlapping += width > 0 and height > 0
                smaller = min((x2 - x1) * (y2 - y1), (a2 - a1) * (b2 - b1))
                assert max(width, 0) * max(height, 0) < 0.9 * smaller
    assert overlapping > 10


def test_equal_seeds_give_equal_files(tmp_path):
    args = dict(patients=2, images=2, size=48)
    one = files_in(make_demo_cells(tmp_path / 'one', **args))
    assert len(one) == 5
    assert one == files_in(make_demo_cells(tmp_path / 'one', **args))  # written again
    assert one == files_in(make_demo_cells(tmp_path / 'two', **args, seed=0))
    assert one != files_in(make_demo_cells(tmp_path / 'three', **args, seed=1))


def test_patients_do_not_depend_on_their_number(tmp_path):
    few = files_in(make_demo_cells(tmp_path / 'few', patients=1, images=2, size=48))
    more = files_in(make_demo_cells(tmp_path / 'more', patients=2, images=2, size=48))
    few.pop(Path('annotations.json'))
    assert few.items() <= more.items()


@pytest.mark.parametrize(
    ('argument', 'value'), [('patients', 0), ('images', 0), ('size', 47), ('seed', -1)]
)
def test_small_numbers_raise(tmp_path, argument, value):
    with pytest.raises(ValueError, match=f'expected {argument} of at least'):
        make_demo_cells(tmp_path / 'demo', **{argument: value})


def test_other_files_are_kept(tmp_path):
    (tmp_path / 'notes.txt').write_text('x')
    with pytest.raises(FileExistsError, match=r'notes.txt. Choose an empty folder'):
        make_demo_cells(tmp_path, patients=1, images=1)


def test_tool(tmp_path, monkeypatch, capsys):
    options = ['--cells', '--patients', '2', '--slices', '3', '--size', '48']
    monkeypatch.setattr(sys, 'argv', ['make_demo_data.py', str(tmp_path), *options])
    runpy.run_path(str(TOOL), run_name='__main__')
    assert f'6 images of cells of 2 patients in {tmp_path}' in capsys.readouterr().out
    assert len(list((tmp_path / 'images').iterdir())) == 6
