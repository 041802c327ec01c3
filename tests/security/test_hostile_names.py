"""Names of files, cases and classes from untrusted sources are displayed and never followed."""

import csv
import json
from pathlib import Path

# Makes torchvision importable; must come first.

# isort: split
import numpy as np
import pytest
import torch
from PIL import EpsImagePlugin, Image

from mmkdml.analysis.case_figure import SheetCell, draw_cells
from mmkdml.apis import load_config, predict_files
from mmkdml.apis.prediction.inputs import ReadOptions, find_sources, read_source
from mmkdml.apis.prediction.predictor import Predictor
from mmkdml.datasets.images import read_image
from mmkdml.evaluation.mask_panels import Panel, draw_sheet
from mmkdml.registry import MODELS

CONFIG = Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py'
NAMES = [
    '=HYPERLINK("x")', '<script>alert(1)<', '$\\evil{$', '..', '.', '...', '-rf', '~', '%2e%2e%2f',
    '..\\..\\x', 'C:x', '{{ 7*7 }}', 'a\nb', '`id`', '$(id)', ';id', 'nul\u202egnp', 'CON', '|x|',
]  # fmt: skip


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images')
    for name in NAMES:
        (folder / f'_{name}').mkdir()
        for path in (folder / f'{name}.png', folder / f'_{name}' / f'{name}.png'):
            Image.new('RGB', (8, 8)).save(path, 'PNG')
    return folder


@pytest.fixture(scope='module')
def predictor():
    torch.manual_seed(0)
    config = load_config(CONFIG)
    classes = ('healthy', '=cmd|x')
    return Predictor(MODELS.build(config.model).eval(), config, classes)


def test_predictions_stay_in_their_folder(images, predictor, tmp_path):
    out = tmp_path / 'deep' / 'out'
    named = [images / f'{name}.png' for name in NAMES]
    for words in (images, named):
        predict_files(predictor, words, out, members=['student_1'], force=True)
    everything = {path for path in tmp_path.rglob('*') if path.is_file()}
    assert everything == {path for path in out.rglob('*') if path.is_file()}
    masks = {
        path.relative_to(out / 'masks' / 'student_1')
        for path in everything - {*out.glob('*')}
        if 'masks' in path.parts
    }
    whole = {Path(f'{name}.png') for name in NAMES}
    assert masks == whole | {Path(f'_{one.stem}') / one for one in whole if one.name[0] != '.'}
    with (out / 'predictions.csv').open(newline='') as file:
        rows = list(csv.reader(file))
    assert not [cell for row in rows for cell in row if cell[:1] in tuple('=+-@\t\r')]
    cases = json.loads((out / 'predictions.json').read_text())['cases']
    assert {'=HYPERLINK("x")', '..', '-rf'} <= set(cases)  # as they are, for programs


def test_case_names_do_not_leave_the_folder(images):
    names = [source.name for source in find_sources(images)]
    names += [source.name for name in NAMES for source in find_sources(images / f'{name}.png')]
    for name in names:
        written = Path('out', f'{name}.png')  # as every file of a case ends in a suffix
        assert '..' not in written.parts
        assert not Path(name).is_absolute()


def test_overlays_display_names_literally(tmp_path):
    grey = np.full((8, 8, 3), 90, np.uint8)
    mask = np.eye(8, dtype=np.uint8)
    panels = [Panel(grey, dict(truth=mask), name) for name in NAMES]
    draw_sheet(panels, tmp_path / 'sheet.png')
    cells = {name: SheetCell(grey) for name in NAMES[:3]}
    draw_cells([cells], [NAMES[2]], [tmp_path / 'cells.png'], heading=NAMES[2])
    assert (tmp_path / 'cells.png').is_file()


def test_programs_in_images_are_not_executed(tmp_path, monkeypatch):
    path = tmp_path / 'image.png'
    path.write_bytes(
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) run\n%%EOF\n'
    )
    ran = []
    monkeypatch.setattr(
        EpsImagePlugin, 'Ghostscript', lambda *args: ran.append(args) or Image.new('RGB', (8, 8)).im
    )
    with Image.open(path) as image:
        image.load()
    assert len(ran) == 1  # as Pillow does
    with pytest.raises(ValueError, match='image.png: unreadable image'):
        read_image(path, ('RGB',))
    (source,) = find_sources(path)
    with pytest.raises(ValueError, match='image.png: unreadable image'):
        read_source(source, ReadOptions())
    assert len(ran) == 1
