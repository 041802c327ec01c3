"""Sheet rows and measures of a detector whose boxes are given."""

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.structures import BaseDataElement, InstanceData
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmkdml.analysis.case_figure import draw_runs
from mmkdml.analysis.case_measures import measure_cases
from mmkdml.analysis.detection_rows import box_rows
from mmkdml.analysis.hard_cases import check_comparable, choose_cases
from mmkdml.models import KnowledgeDistiller

A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (20, 20, 24, 25)
# True boxes, and boxes of student 1, student 2 and the ensemble, by image.
CASES = [
    ((A, B), (A, B), (A,), (A, B)),
    ((A, C), (A,), (B,), (B,)),
    ((), (), (), ()),
    ((), (A,), (), (A,)),
]


def instances(boxes, score=0.9):
    """Return instances; a box of a low score is added to predictions."""
    extra = () if score is None else ((0, 0, 3, 3),)
    found = InstanceData(
        bboxes=torch.tensor([*boxes, *extra]).reshape(-1, 4).float(),
        labels=torch.zeros(len(boxes) + len(extra)).long(),
    )
    if score is not None:
        found.scores = torch.tensor([score] * len(boxes) + [0.29])
    return found


class Images(Dataset):
    metainfo = dict(classes=('cell',))

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return len(CASES)

    def get_data_info(self, index):
        return dict(id=f'i{index}', group=f'g{index}')

    def __getitem__(self, index):
        return index


class Preprocessor(nn.Module):
    def forward(self, data, training):
        return dict(inputs=torch.zeros(len(data), 3, 8, 8), data_samples=data)


@pytest.fixture
def detection(tmp_path, detector):
    """A classroom whose predictions are those of ``CASES``, and the loader of its images."""
    from mmdet.structures import DetDataSample

    members = dict(student_1=detector(), student_2=detector(seed=1))
    model = KnowledgeDistiller(members=members, transfers=[], input_size=(64, 64)).eval()
    model.data_preprocessor = Preprocessor()
    for index in range(len(CASES)):
        Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(tmp_path / f'{index}.png')

    def forward(inputs, data_samples, mode):
        samples = []
        for index in data_samples:
            truth, *found = CASES[index]
            one, two, both = (DetDataSample(pred_instances=instances(boxes)) for boxes in found)
            both.gt_instances, both.ignored_instances = instances(truth, None), instances((), None)
            both.set_metainfo(
                dict(ori_shape=(40, 50), img_path=str(tmp_path / f'{index}.png'), img_id=index)
            )
            both.members = BaseDataElement(student_1=one, student_2=two)
            samples.append(both)
        return samples

    model.forward = forward
    return model, DataLoader(Images(tmp_path), 3, collate_fn=pseudo_collate)


def test_measures_by_hand(detection):
    table = measure_cases(*detection)
    nan = np.nan
    expected = dict(
        boxes=[2, 2, 0, 0],
        smallest_px=[100, 20, nan, nan],
        student_1_F1_percent=[100, 200 / 3, nan, 0],
        student_2_F1_percent=[200 / 3, 0, nan, nan],
        ensemble_F1_percent=[100, 0, nan, 0],
        disagreement_percent=[100 / 3, 100, 0, 100],
    )
    assert table.columns.tolist() == ['id', 'group', *expected]
    for name, values in expected.items():
        np.testing.assert_allclose(table[name].astype(float), values, err_msg=name)


def test_choice_of_hard_cases(detection):
    assert check_comparable(dict(run=detection)) == 'detection'
    tables = dict(run=measure_cases(*detection))
    assert choose_cases(tables, 'worst', 3) == ['i1', 'i3', 'i0']
    assert choose_cases(tables, 'smallest', 4) == ['i1', 'i0']
    assert choose_cases(tables, 'disagreement', 2) == ['i1', 'i3']


def test_rows_and_sheet(detection, tmp_path, figure):
    rows = box_rows(*detection)
    assert [list(row) for row in rows] == [['truth', 'student_1', 'student_2', 'ensemble']] * 4
    captions = [[cell.caption for cell in row.values()] for row in rows]
    assert captions[1] == [
        '2 boxes', '1 of 2 found, 0 false', '0 of 2 found, 1 false', '0 of 2 found, 1 false',
    ]  # fmt: skip
    (path,) = draw_runs(dict(run=rows[:2]), ['x', 'y'], tmp_path / 'out', 'unused')
    assert path.is_file()
    sheet = figure[0]
    assert [len(axes.patches) for axes in sheet.axes] == [2, 2, 2, 2, 2, 2, 3, 3]
    labels = [text.get_text() for text in sheet.legends[0].get_texts()]
    assert labels == ['found', 'false', 'missed', 'cell']
