import numpy as np
import pandas as pd
import pytest
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader

from mmkdml.analysis import choose_cases, measure_cases
from mmkdml.apis import Answer
from mmkdml.apis.view.hardness import case_row, hardest_first, true_quality
from mmkdml.apis.view.slices import ViewSlice
from mmkdml.apis.view.sources import SplitCases
from mmkdml.evaluation.boxes.samples import TrueBoxes
from mmkdml.registry import DATASETS

STUDENTS = ('student_1', 'student_2')


@pytest.mark.parametrize('name', ['kdml_v3_demo', 'kdml_v3_demo_slices'])
@pytest.mark.parametrize('by', ['disagreement', 'worst'])
def test_numbers_and_order_are_those_of_the_analysis(split_predictor, name, by):
    predictor = split_predictor(name)
    cases = SplitCases(predictor)
    dataset = DATASETS.build(predictor.config.test_dataloader.dataset)
    loader = DataLoader(dataset, 4, collate_fn=pseudo_collate)
    expected = measure_cases(predictor.model, loader)

    def row_of(name):
        return case_row(name, cases.groups[name], list(cases.load(name)), STUDENTS)

    rows = pd.DataFrame(map(row_of, cases.groups))
    shared = [column for column in expected if column in rows and column not in ('truth',)]
    assert {'id', 'group', 'disagreement_percent'} < set(shared)
    assert any(column.startswith('ensemble_') for column in shared)
    pd.testing.assert_frame_equal(
        rows[shared].astype(expected[shared].dtypes), expected[shared], atol=1e-3
    )
    order, failed = hardest_first(list(cases.groups), row_of, by)
    assert order == choose_cases({'': expected}, by, len(expected), repeat_groups=True)
    assert failed == {}


def segmented(label, truth=None):
    label = np.array(label, np.uint8)
    answers = dict.fromkeys(('student_1', 'ensemble'), Answer(label, np.zeros((1, *label.shape))))
    answers['student_2'] = Answer(1 - label, np.zeros((1, *label.shape)))
    image = np.zeros((*label.shape, 3), np.uint8)
    return ViewSlice(image, answers, None if truth is None else np.array(truth, np.uint8))


def test_volume_counts_as_one_image():
    views = [segmented([[1, 1, 0]], [[1, 0, 0]]), segmented([[0, 1, 1]], [[0, 1, 255]])]
    row = case_row('a', 'p', views, STUDENTS)
    assert row['ensemble_IoU_percent'] == pytest.approx(100 * 2 / 3)
    assert (row['region_px'], row['disagreement_percent']) == (2, 100)
    assert (row['id'], row['group']) == ('a', 'p')


def test_without_truth_only_disagreement_is_known():
    row = case_row('a', 'a', [segmented([[1, 0]])], STUDENTS)
    assert np.isnan(row['ensemble_IoU_percent'])
    assert row['disagreement_percent'] == 100
    assert np.isnan(case_row('a', 'a', [segmented([[1, 0]])], ())['disagreement_percent'])
    order, _ = hardest_first(
        ['a', 'b'],
        lambda name: case_row(name, name, [segmented([[1, 0]])], STUDENTS),
        'disagreement',
    )
    assert order == ['a', 'b']


def test_failed_cases_are_left_out_and_named():
    def row_of(name):
        if name == 'b':
            raise ValueError('b.png is damaged')
        return case_row(name, name, [segmented([[1, 0]], [[int(name == 'a'), 0]])], STUDENTS)

    assert hardest_first(['a', 'b', 'c'], row_of, 'worst') == (
        ['c', 'a'],
        {'b': 'b.png is damaged'},
    )
    with pytest.raises(ValueError, match=r'b\.png is damaged'):
        hardest_first(['b'], row_of, 'worst')


def test_quality_of_classes_and_boxes():
    assert true_quality(Answer(1, np.array([1.0, 3.0])), 1) == 75
    assert true_quality(Answer((0,), np.array([0.9, 0.2])), (0,)) == pytest.approx(85)
    boxes = np.array([[0, 0, 4, 4], [9, 9, 12, 12]], np.float32)
    found = Answer(np.array([0, 0]), np.array([0.9, 0.8], np.float32), boxes)
    truth = TrueBoxes(boxes[:1], np.array([0]), np.array([False]))
    assert true_quality(found, truth) == pytest.approx(100 * 2 / 3)
    other = Answer(np.array([0]), np.array([0.9], np.float32), boxes[:1])
    view = ViewSlice(np.zeros((20, 20, 3), np.uint8), dict(student_1=found, student_2=other), truth)
    row = case_row('a', 'a', [view], STUDENTS)
    assert row['disagreement_percent'] == pytest.approx(100 / 3)
    assert row['student_2_F1_percent'] == 100
