from types import SimpleNamespace

import mmcv
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb

from mmkdml.analysis import box_rows as module
from mmkdml.analysis.box_rows import box_rows
from mmkdml.analysis.case_figure import draw_cells
from mmkdml.figures import class_color

SQUARE, FAR = [0.0, 0.0, 10.0, 10.0], [20.0, 2.0, 30.0, 12.0]


def boxes(values, labels, scores=None):
    made = dict(bboxes=torch.tensor(values).reshape(-1, 4), labels=torch.tensor(labels).long())
    return made if scores is None else dict(made, scores=torch.tensor(scores))


class Sample(dict):
    @property
    def img_path(self):
        return self['img_path']

    all_keys = dict.keys


@pytest.fixture
def rows(tmp_path, monkeypatch):
    """Function that builds the rows of samples, whose predictions are given."""
    image = np.full((20, 40, 3), (10, 20, 30), np.uint8)
    mmcv.imwrite(image, str(tmp_path / 'x.png'))
    monkeypatch.setattr(module, 'predict_batch', lambda model, data: (None, data))

    class Loader(list):
        dataset = SimpleNamespace(metainfo=dict(classes=('cell', 'platelet')))

    def build(truth, a, ensemble, **fields):
        sample = Sample(
            gt_instances=boxes(*truth),
            ignored_instances=boxes([], []),
            members=dict(a=dict(pred_instances=boxes(*a))),
            pred_instances=boxes(*ensemble),
            img_path=str(tmp_path / 'x.png'),
        )
        for key in fields:
            del sample[key]
        return box_rows(None, Loader([[sample]]))

    return build


def test_boxes_of_members(rows):
    truth = [SQUARE, FAR], [0, 1]
    a = [SQUARE, FAR, FAR], [0, 0, 1], [0.9, 0.8, 0.29]
    (row,) = rows(truth, a, (*truth, [0.9, 0.3]))
    assert list(row) == ['image', 'truth', 'a', 'ensemble']
    assert row['image'].caption == '2 boxes'
    assert (row['image'].image == (30, 20, 10)).all()  # RGB
    assert row['truth'].boxes is None
    assert row['truth'].truth.boxes.tolist() == [SQUARE, FAR]
    assert list(row['truth'].legend) == ['cell', 'platelet']
    # The third box has too low a score, and the second one the wrong class.
    assert row['a'].boxes.boxes.tolist() == [SQUARE, FAR]
    assert row['a'].caption == 'F1 50.0 %\n1 of 2 found, 1 false'
    assert row['ensemble'].caption == 'F1 100.0 %\n2 of 2 found, 0 false'


def test_image_without_boxes(rows):
    none = [], [], []
    (row,) = rows(none[:2], none, ([SQUARE], [0], [0.5]))
    assert row['image'].caption == '0 boxes'
    assert row['a'].caption == 'no boxes'
    assert row['ensemble'].caption == 'F1 0.0 %\nno true boxes, 1 false'


def test_boxes_are_drawn_in_the_colors_of_their_classes(rows, tmp_path):
    found = [SQUARE, FAR], [0, 1], [0.9, 0.9]
    cells = rows(found[:2], found, ([], [], []))
    draw_cells(cells, ['case'], [tmp_path / 'out.png'])
    picture = mmcv.imread(tmp_path / 'out.png', channel_order='rgb')
    quarters = np.array_split(picture, 4, axis=1)
    for name, tile in zip(cells[0], quarters, strict=True):
        tile = tile[: len(tile) * 3 // 4]  # without the legend
        for index in range(2):
            color = np.round(255 * np.array(to_rgb(class_color(index))))
            drawn = (np.abs(tile - color).max(-1) <= 2).any()
            assert drawn == (name in ('truth', 'a')), (name, index)


def test_sample_without_img_path_raises(rows):
    with pytest.raises(ValueError, match='expected img_path .* meta_keys of PackDetInputs'):
        rows(([], []), ([], [], []), ([], [], []), img_path=None)
