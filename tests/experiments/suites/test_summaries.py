"""Reading of suites with summaries, against the complete results."""

import json
import zlib

import numpy as np
import pandas as pd
import pytest

from mmkdml.experiments import RunSpec, Suite, SuiteStore, read_suite, seed_scores
from mmkdml.experiments.suites import summaries
from mmkdml.experiments.suites.serialization import deserialize_result, serialize_result
from mmkdml.experiments.suites.store import DATABASE
from mmkdml.experiments.suites.summaries import summarize_result
from mmkdml.statistics.counts import count_cases
from mmkdml.statistics.records import Measurement

COLUMNS = ['member', 'id', 'group', 'label', 'tp', 'fp', 'fn']
MEMBERS = ('student_1', 'ensemble')


def result(seed):
    """Result of a run; curves have a missing value, and there is an undefined metric."""
    rng = np.random.default_rng(seed)
    rows = [
        (member, str(image), f'g{image % 3}', 1, *rng.integers(1, 99, 3))
        for member in MEMBERS
        for image in range(6)
    ]
    cases = pd.DataFrame(rows, columns=COLUMNS)
    curves = pd.DataFrame(
        [(1, 'loss', rng.random()), (1, 'ensemble/IoU', float('nan')), (2, 'loss', rng.random())],
        columns=['epoch', 'key', 'value'],
    )
    metrics = {'ensemble/IoU': rng.random(), 'ensemble/x': float('nan')}
    measured = {name: Measurement(metrics, cases) for name in ('best', 'last')}
    return serialize_result(measured, curves, dict(seconds=1.0, config_text=f'seed = {seed}'))


@pytest.fixture
def make(tmp_path):
    """Build a suite of four finished runs; ``summarized`` are the seeds with a summary."""

    def make(summarized=()):
        runs = tuple(RunSpec(name, seed, 'c') for seed in (0, 1) for name in ('a', 'b'))
        suite = Suite('s', 's.py', 'Title', ('IoU',), (), runs, tmp_path)
        store = SuiteStore.in_folder(tmp_path)
        model = dict(mode='ml', style='v1', members={})
        store.register(runs, dict.fromkeys('ab', json.dumps(dict(model=model))))
        for state in store.states():
            content = result(state.seed + 10 * (state.name == 'b'))
            own = state.seed in summarized
            parts = summarize_result(*deserialize_result(content)) if own else None
            store.claim(state, 'w', 0.0)
            assert store.finish(state, 'w', content, 1.0, parts)
        return suite, store

    return make


@pytest.mark.parametrize('summarized', [(), (0,), (0, 1)])
def test_records_equal_the_results(make, summarized):
    suite, store = make(summarized)
    record = read_suite(suite, store)
    assert [(run.name, run.seed) for run in record.runs] == [
        (name, seed) for name in 'ab' for seed in (0, 1)
    ]
    for run in record.runs:
        measured, curves, metadata = deserialize_result(store.result(run.name, run.seed))
        pd.testing.assert_frame_equal(run.curves, curves)
        assert list(run.curve_keys) == list(curves['key'].unique())
        keys, codes, epochs, values = run.logged
        arrays = dict(epoch=epochs, key=[keys[code] for code in codes], value=values)
        pd.testing.assert_frame_equal(pd.DataFrame(arrays), curves, check_dtype=False)
        assert run.metadata == metadata
        assert list(run.measured) == list(measured)
        for checkpoint, one in measured.items():
            assert run.measured[checkpoint].metrics == pytest.approx(one.metrics, nan_ok=True)
            pd.testing.assert_frame_equal(run.measured[checkpoint].cases, one.cases)


def test_results_are_read_once_for_summaries_and_then_only_for_the_tested_cases(make, monkeypatch):
    suite, store = make()
    expected = seed_scores(read_suite(suite, store))
    read = []
    monkeypatch.setattr(
        summaries, 'deserialize_result', lambda one: read.append(one) or deserialize_result(one)
    )
    record = read_suite(suite, store)
    pd.testing.assert_frame_equal(seed_scores(record), expected)
    counts = count_cases(record, 'best')
    first = counts.by_entry['a', 'ensemble'][0]
    assert all(by_seed[1].cases is first.cases for by_seed in counts.by_entry.values())
    assert len(read) == 1  # all runs have the same cases
    assert record.runs[3].curves['key'].tolist() == ['loss', 'ensemble/IoU', 'loss']
    assert len(read) == 1


def test_read_only_database_of_an_earlier_version_is_read(make):
    suite, store = make()
    expected = seed_scores(read_suite(suite, store))
    with store.engine.begin() as connection:
        connection.exec_driver_sql('DROP TABLE summaries')
    store.engine.dispose()
    path = suite.work_dir / DATABASE
    before = path.read_bytes()
    reader = SuiteStore(f'sqlite:///file:{path}?mode=ro&uri=true')
    reader.check_suite(suite.name, suite.runs)
    record = read_suite(suite, reader)
    pd.testing.assert_frame_equal(seed_scores(record), expected)
    assert record.runs[0].metadata['seconds'] == 1.0
    assert path.read_bytes() == before


def test_database_that_cannot_be_written_is_tried_once(make, monkeypatch):
    """It may be locked, and each attempt would wait."""
    suite, store = make()
    calls = []

    def refuse(found):
        calls.append(found)
        raise ValueError('locked')

    monkeypatch.setattr(summaries, '_CHUNK', 1)
    monkeypatch.setattr(store, 'add_summaries', refuse)
    assert len(seed_scores(read_suite(suite, store))) == 4 * 2 * len(MEMBERS)
    assert len(calls) == 1


@pytest.mark.parametrize('content', [b'', b'damaged', zlib.compress(b'{')])
def test_damaged_summaries_are_computed_again(make, content):
    suite, store = make((0, 1))
    expected = seed_scores(read_suite(suite, store))
    store.add_summaries({('a', 0): {'1/scores': content}})
    pd.testing.assert_frame_equal(seed_scores(read_suite(suite, store)), expected)
    assert store.summaries('1/scores')['a', 0] != content


def test_result_without_its_run_leaves_no_summary(make):
    _, store = make((0, 1))
    before = store.summaries('1/scores')
    assert len(before) == 4
    state = store.states()[0]
    assert not store.finish(state, 'another', b'other', 1.0, {'1/scores': b'other'})
    assert store.finish(state, 'w', b'other', 1.0, {'1/scores': b'other'})  # recorded before
    assert store.summaries('1/scores') == before
    assert list(store.summaries('1/scores', [('b', 1)])) == [('b', 1)]


def test_invalid_case_tables_have_no_summary(make):
    content = result(0)
    measured, curves, metadata = deserialize_result(content)
    twice = Measurement({}, pd.concat([measured['best'].cases] * 2))
    assert summarize_result({'best': twice}, curves, metadata) == {}
