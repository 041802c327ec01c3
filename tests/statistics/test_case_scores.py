import numpy as np
import pandas as pd
import pytest

from mmkdml.statistics.case_scores import case_scores


def masks(member, tp):
    groups = [f'g{index // 2}' for index in range(len(tp))]
    return pd.DataFrame(
        dict(
            member=member, id=[str(i) for i in range(len(tp))], group=groups, label=1, tp=tp, fp=2,
            fn=3,
        )
    )  # fmt: skip


def test_values_by_hand_and_paired_differences():
    first, second = masks('onnx', [10, 20, 30, 40]), masks('int8', [9, 19, 29, 39])
    cases = pd.concat([first, second])
    before = cases.copy()
    found = case_scores(cases, 'onnx', resamples=200).set_index(['member', 'measure'])
    pd.testing.assert_frame_equal(cases, before)
    iou = {'onnx': 100 * 100 / (100 + 20), 'int8': 100 * 96 / (96 + 20)}
    for name, value in iou.items():
        row = found.loc[name, 'IoU']
        assert row['value'] == pytest.approx(value)
        assert row['low'] <= value <= row['high']
        assert row['groups'] == 2
    row = found.loc['int8', 'IoU']
    assert row['difference'] == pytest.approx(iou['int8'] - iou['onnx'])
    # Two groups: each resample is one of them twice or both.
    pure = [100 * (s / (s + 10) - f / (f + 10)) for s, f in ((28, 30), (68, 70))]
    assert row['difference_low'] == pytest.approx(min(pure))
    assert row['difference_high'] == pytest.approx(max(pure))
    assert np.isnan(found.loc['onnx', 'IoU']['difference'])


def test_one_group_has_no_interval_and_classification_has_its_measures():
    cases = pd.DataFrame(
        dict(member='m', id=['a', 'b', 'c'], group='g', truth=[0, 1, 1], pred=[0, 1, 0])
    )
    found = case_scores(cases).set_index('measure')
    assert list(found.index) == ['accuracy', 'precision', 'recall']
    assert found.loc['accuracy', 'value'] == pytest.approx(200 / 3)
    assert found.loc['precision', 'value'] == pytest.approx(75)
    assert found.loc['recall', 'value'] == pytest.approx(75)
    assert found[['low', 'high']].isna().all(axis=None)
    assert 'difference' not in found


def test_refusals():
    cases = masks('onnx', [1, 2])
    with pytest.raises(ValueError, match="expected a reference among onnx, got 'int8'"):
        case_scores(cases, 'int8')
    with pytest.raises(ValueError, match='expected a case table with the columns'):
        case_scores(pd.DataFrame(dict(member=['a'])))
