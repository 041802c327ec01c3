import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import t

from mmkdml.statistics.case_scores import case_scores


def masks(member, tp, images=2):
    groups = [f'g{index // images}' for index in range(len(tp))]
    return pd.DataFrame(
        dict(
            member=member, id=[str(i) for i in range(len(tp))], group=groups, label=1, tp=tp, fp=2,
            fn=3,
        )
    )  # fmt: skip


def test_values_intervals_and_paired_differences():
    first, second = masks('onnx', [10, 20, 30, 40]), masks('int8', [9, 19, 29, 39])
    cases = pd.concat([first, second])
    before = cases.copy()
    found = case_scores(cases, 'onnx').set_index(['member', 'measure'])
    pd.testing.assert_frame_equal(cases, before)
    iou = {'onnx': 100 * 100 / (100 + 20), 'int8': 100 * 96 / (96 + 20)}
    for name, value in iou.items():
        row = found.loc[name, 'IoU']
        assert row['value'] == pytest.approx(value)
        assert row['low'] <= value <= row['high']
        assert row['groups'] == 2
    row = found.loc['int8', 'IoU']
    assert row['difference'] == pytest.approx(iou['int8'] - iou['onnx'])
    # The difference of one group, without the other one; the jackknife has one degree of freedom.
    single = [100 * (s / (s + 10) - f / (f + 10)) for s, f in ((28, 30), (68, 70))]
    width = t.ppf(0.975, 1) * abs(single[0] - single[1]) / 2
    assert row['difference_low'] == pytest.approx(row['difference'] - width)
    assert row['difference_high'] == pytest.approx(row['difference'] + width)
    assert np.isnan(found.loc['onnx', 'IoU']['difference'])


def test_measures_of_classification_and_no_interval_for_one_group():
    cases = pd.DataFrame(
        dict(member='m', id=['a', 'b', 'c'], group='g', truth=[0, 1, 1], pred=[0, 1, 0])
    )
    found = case_scores(cases).set_index('measure')
    assert list(found.index) == ['accuracy', 'F1', 'balanced_accuracy', 'precision', 'recall']
    assert found.loc['accuracy', 'value'] == pytest.approx(200 / 3)
    assert found.loc['precision', 'value'] == pytest.approx(75)
    assert found.loc['recall', 'value'] == pytest.approx(75)
    assert found[['low', 'high']].isna().all(axis=None)
    assert 'difference' not in found


def test_intervals_do_not_depend_on_the_order_of_rows():
    cases = masks('m', list(range(20)), images=1)
    found = case_scores(cases).iloc[0]
    without = 190 - np.arange(20)  # of 190 correct pixels
    replicates = without / (without + 19 * 5)
    error = np.sqrt(19**2 / 20 * replicates.var(ddof=1))
    value = 190 / 290
    ends = np.array([-1, 1]) * t.ppf(0.975, 19) * error / (value * (1 - value))
    low, high = 100 * expit(logit(value) + ends)
    assert (found['low'], found['high']) == pytest.approx((low, high))
    pd.testing.assert_series_equal(case_scores(cases[::-1]).iloc[0], found)


def test_invalid_arguments_raise():
    cases = masks('onnx', [1, 2])
    with pytest.raises(ValueError, match="reference.* onnx, got 'int8'"):
        case_scores(cases, 'int8')
    with pytest.raises(ValueError, match=r"case table: expected columns .* got \['member'\]"):
        case_scores(pd.DataFrame(dict(member=['a'])))
