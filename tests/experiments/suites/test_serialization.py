import gzip
import json
import pickle
import tracemalloc

import numpy as np
import pandas as pd
import pytest

from mmkdml.experiments.suites import serialization
from mmkdml.experiments.suites.serialization import deserialize_result, serialize_result
from mmkdml.statistics.records import Measurement

# Names that CSV readers convert to numbers or missing values.
CASES = pd.DataFrame(
    [('teacher', '007', 'NA', 1, 5, 0, 2), ('ensemble', 'nan', '1e3', 1, 4, 1, 3)],
    columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'],
)
CURVES = pd.DataFrame([(1, 'loss', 0.25), (2, 'loss', 1 / 3)], columns=['epoch', 'key', 'value'])
VALID = serialize_result({'best': Measurement({}, CASES)}, CURVES, {})


def test_round_trip():
    measured = {'best': Measurement({'teacher/IoU': 1 / 3, 'x': float('nan')}, CASES)}
    got, curves, metadata = deserialize_result(
        serialize_result(measured, CURVES, dict(seconds=2.5))
    )
    assert list(got) == ['best']
    assert got['best'].metrics['teacher/IoU'] == 1 / 3
    assert got['best'].metrics['x'] != got['best'].metrics['x']
    pd.testing.assert_frame_equal(got['best'].cases, CASES, check_dtype=False)
    pd.testing.assert_frame_equal(curves, CURVES, check_exact=True)
    assert metadata == dict(seconds=2.5)


def test_round_trip_of_several_labels():
    cases = CASES[['member', 'id', 'group', 'label']].assign(truth=[1, 0], pred=[0, 0])
    content = serialize_result({'best': Measurement({}, cases)}, CURVES, {})
    got = deserialize_result(content)[0]['best'].cases
    pd.testing.assert_frame_equal(got, cases, check_dtype=False)


def test_round_trip_of_boxes_keeps_every_score():
    scores = np.random.default_rng(0).random(500).astype('float32')
    columns = ['member', 'id', 'group', 'label', 'rank', 'score', 'hits', 'ignored', 'boxes']
    rows = [('a', '007', 'NA', 1, rank, score, 1023, 0, 0) for rank, score in enumerate(scores)]
    cases = pd.DataFrame(rows, columns=columns).astype({'score': 'float32'})
    content = serialize_result({'best': Measurement({}, cases)}, CURVES, {})
    got = deserialize_result(content)[0]['best'].cases
    pd.testing.assert_frame_equal(got, cases, check_exact=True, check_dtype=False)
    assert len(content) < 12 * len(scores)


def test_result_is_strict_json():
    def refuse(word):
        raise ValueError(word)

    result = serialize_result({'best': Measurement({'x': float('inf')}, CASES)}, CURVES, {})
    content = json.loads(gzip.decompress(result), parse_constant=refuse)
    assert content['measured']['best']['metrics'] == {'x': None}


def zipped(**content):
    return gzip.compress(json.dumps(content).encode())


def test_percent_of_the_first_version_become_fractions():
    metrics = {'ensemble/calibration/ECE': 2.5, 'ensemble/accuracy/top1': 90.0}
    curves = pd.DataFrame(
        [(1, 'ensemble/calibration/ECE', 4.0), (1, 'loss', 2.0)], columns=CURVES.columns
    )
    content = json.loads(
        gzip.decompress(serialize_result({'best': Measurement(metrics, CASES)}, curves, {}))
    )
    for version, divisor in ((content.pop('version'), 1), (None, 100)):
        named = {} if version is None else dict(version=version)
        got, read, _ = deserialize_result(zipped(**content, **named))
        assert got['best'].metrics == {**metrics, 'ensemble/calibration/ECE': 2.5 / divisor}
        assert read['value'].tolist() == [4.0 / divisor, 2.0]


def test_result_of_a_newer_version_raises():
    content = json.loads(gzip.decompress(VALID))
    newer = content['version'] + 1
    with pytest.raises(ValueError, match=f'version 1 to {newer - 1}, got {newer}'):
        deserialize_result(zipped(**{**content, 'version': newer}))


@pytest.mark.parametrize(
    'content',
    [
        pytest.param(b'', id='empty'),
        pytest.param(VALID[:-10], id='truncated'),
        pytest.param(b'plain', id='plain'),
        pytest.param(gzip.compress(b'[1'), id='no_json'),
        pytest.param(gzip.compress(b'[]'), id='list'),
        pytest.param(zipped(measured={}), id='no_curves'),
        pytest.param(zipped(measured={'best': 3}, curves='', facts={}), id='no_measurement'),
        pytest.param(zipped(measured='x', curves='', facts={}), id='text'),
        pytest.param(gzip.compress(b'[' * 100_000), id='deep'),
        pytest.param(VALID[:20] + b'damaged' + VALID[27:], id='damaged'),
        pytest.param(pickle.dumps(dict(measured={})), id='pickle'),
    ],
)
def test_invalid_result_raises(content):
    with pytest.raises(ValueError, match='invalid result'):
        deserialize_result(content)


def test_size_after_decompression_is_limited(monkeypatch):
    monkeypatch.setattr(serialization, '_MAX_BYTES', 1 << 20)
    bomb = gzip.compress(b'[' + b' ' * (200 << 20) + b']', compresslevel=1)
    tracemalloc.start()
    with pytest.raises(ValueError, match='more than 1 MiB'):
        deserialize_result(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    monkeypatch.setattr(serialization, '_MAX_BYTES', 200)
    text = json.dumps(dict(measured={}, curves='epoch,key,value', facts={}))
    deserialize_result(gzip.compress(text.ljust(200).encode()))
    with pytest.raises(ValueError, match='invalid result'):
        deserialize_result(gzip.compress(text.ljust(201).encode()))


def test_values_of_cases_and_scores_of_classes_are_restored():
    valued = dict(label=1, tp=1, fp=2, fn=0, HD95=[1.5, np.nan], false_positives=[0.0, 3.0])
    scored = dict(truth=[0, 1], pred=[0, 1], score_0=[0.25, 0.1], score_1=[0.75, 0.9])
    curves = pd.DataFrame(columns=['epoch', 'key', 'value'])
    for columns in (valued, scored):
        cases = pd.DataFrame(dict(member='m', id=['a', 'b'], group='g', **columns))
        content = serialize_result({'best': Measurement({}, cases)}, curves, {})
        found = deserialize_result(content)[0]['best'].cases
        pd.testing.assert_frame_equal(found, cases, check_dtype=False)
