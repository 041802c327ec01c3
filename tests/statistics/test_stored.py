"""Summaries against the counts of the case tables that they summarize."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from mmkdml.statistics.counts import Summary, count_members, summarize
from mmkdml.statistics.measures import MEASURES
from mmkdml.statistics.records import Measurement
from mmkdml.statistics.stored import StoredCounts, pack, pool_summaries, summarize_cases, unpack

RNG = np.random.default_rng(0)


def segmentation(images=range(6), classes=2):
    rows = [
        (member, f'{image}', f'g{image % 4}', label, *RNG.integers(1, 99, 3))
        for member in ('student_1', 'ensemble')
        for image in images
        for label in range(1, classes + 1)
    ]
    return pd.DataFrame(rows, columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'])


def classification(images=range(8)):
    rows = [
        (member, f'{image}', f'g{image % 4}', image % 3, RNG.integers(3), *RNG.random(3))
        for member in ('model', 'ensemble')
        for image in images
    ]
    columns = ['member', 'id', 'group', 'truth', 'pred', 'score_0', 'score_1', 'score_2']
    return pd.DataFrame(rows, columns=columns)


def detection(images=range(5)):
    rows = []
    for image in images:
        rows.append(('model', f'{image}', f'g{image % 3}', 0, 0, 0.0, 0, 0, 2))
        for rank in (1, 2, 3):
            hits = int(RNG.integers(1024))
            rows.append(('model', f'{image}', f'g{image % 3}', 0, rank, RNG.random(), hits, 0, 0))
    columns = ['member', 'id', 'group', 'label', 'rank', 'score', 'hits', 'ignored', 'boxes']
    return pd.DataFrame(rows, columns=columns)


def stored(cases, classes=None):
    """Counts as they are read from a database."""
    head, content = summarize_cases(cases)
    classes = classes or head['classes']
    full = count_members(cases, classes)
    return {
        name: StoredCounts(
            full[name].cases,
            one,
            classes,
            lambda name=name: unpack(content)[name],
            lambda name=name: full[name],
        )
        for name, one in head['members'].items()
    }, full


def assert_equal(found, expected, task_measures):
    assert found.cases == expected.cases
    assert found.digest == expected.digest
    for name in task_measures:
        measure = MEASURES[name]
        own, other = found.for_measure(measure), expected.for_measure(measure)
        np.testing.assert_allclose(measure.value(found.total()), measure.value(expected.total()))
        for part in ('leave_one_out', 'by_group'):
            values = (measure.value(getattr(one, part)()) for one in (own, other))
            np.testing.assert_allclose(*values, rtol=1e-12, err_msg=f'{name} {part}')


TABLES = [segmentation, classification, detection]


@pytest.mark.parametrize('table', TABLES)
def test_stored_counts_equal_those_of_the_case_table(table):
    cases = table()
    found, expected = stored(cases)
    assert list(found) == list(expected)
    measures = summarize_cases(cases)[0]['measures']
    assert len(measures) > 1
    for name in expected:
        assert_equal(found[name], expected[name], measures)


def test_classes_of_other_runs_are_added():
    cases = segmentation()
    found, expected = stored(cases, 5)
    assert_equal(found['ensemble'], expected['ensemble'], ['IoU', 'F1'])
    assert found['ensemble'].total().shape[-1] == 5
    # Equal predictions are recognized nevertheless.
    assert found['ensemble'].digest == stored(cases)[0]['ensemble'].digest


def test_scores_of_many_cases_are_not_loaded_for_measures_of_predictions():
    head, content = summarize_cases(classification())
    one = StoredCounts(
        frozenset(), head['members']['model'], 3, lambda: unpack(content)['model'], None
    )
    assert one.for_measure(MEASURES['accuracy']).counts.counts.shape == (4, 3, 3)
    with pytest.raises(TypeError):
        one.for_measure(MEASURES['AUROC'])


@pytest.mark.parametrize('table', TABLES)
def test_pooled_folds_equal_the_pooled_case_tables(table):
    # The groups of the second fold overlap with those of the first one.
    folds = [table(range(4)), table(range(4, 9))]
    pooled = pd.concat(folds, ignore_index=True)
    summaries = [summarize(Measurement({}, cases)) for cases in folds]
    packed = []
    for cases, one in zip(folds, summaries, strict=True):
        packed.append(Summary(one.task, one.classes, one.measures, partial(members, cases)))
    found = pool_summaries(packed, lambda: pooled)
    classes = found.classes
    expected = count_members(pooled, classes)
    for name, one in found.members(classes, '').items():
        assert_equal_up_to_digest(one, expected[name], found.measures)


def members(cases, classes, where):
    return stored(cases, classes)[0]


def assert_equal_up_to_digest(found, expected, measures):
    assert found.cases == expected.cases
    for name in measures:
        measure = MEASURES[name]
        own = found.for_measure(measure)
        np.testing.assert_allclose(measure.value(found.total()), measure.value(expected.total()))
        values = (measure.value(one.leave_one_out()) for one in (own, expected))
        np.testing.assert_allclose(*values, rtol=1e-9, err_msg=name)


def test_packed_arrays_are_exact():
    arrays = dict(a=RNG.random((2, 3)), b=np.arange(5, dtype=np.uint8), c=np.empty((0, 3)))
    found = unpack(pack(arrays))
    for name, one in arrays.items():
        assert found[name].dtype == one.dtype
        np.testing.assert_array_equal(found[name], one)


@pytest.mark.parametrize('content', [b'', b'x', pack({})[:-3], pack(dict(a=np.ones(3)))[:-9]])
def test_damaged_arrays_raise(content):
    with pytest.raises(ValueError, match='damaged summary'):
        unpack(content)
