import gzip
import json
import pickle
import tracemalloc

import pandas as pd
import pytest

from mmkdml.experiments.suites import serialization
from mmkdml.experiments.suites.serialization import pack_result, unpack_result
from mmkdml.statistics.records import Measurement

# Names that CSV readers like to take for numbers or for nothing.
CASES = pd.DataFrame(
    [('teacher', '007', 'NA', 1, 5, 0, 2), ('ensemble', 'nan', '1e3', 1, 4, 1, 3)],
    columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'],
)
CURVES = pd.DataFrame([(1, 'loss', 0.25), (2, 'loss', 1 / 3)], columns=['epoch', 'key', 'value'])


def test_a_result_comes_back_as_it_was():
    measured = {'best': Measurement({'teacher/IoU': 1 / 3, 'x': float('nan')}, CASES)}
    got, curves, facts = unpack_result(pack_result(measured, CURVES, dict(seconds=2.5)))
    assert list(got) == ['best']
    assert got['best'].metrics['teacher/IoU'] == 1 / 3
    assert got['best'].metrics['x'] != got['best'].metrics['x']
    pd.testing.assert_frame_equal(got['best'].cases, CASES, check_dtype=False)
    pd.testing.assert_frame_equal(curves, CURVES, check_exact=True)
    assert facts == dict(seconds=2.5)


def test_it_is_strict_json():
    def refuse(word):
        raise ValueError(word)

    packed = pack_result({'best': Measurement({'x': float('inf')}, CASES)}, CURVES, {})
    content = json.loads(gzip.decompress(packed), parse_constant=refuse)
    assert content['measured']['best']['metrics'] == {'x': None}


WHOLE = pack_result({'best': Measurement({}, CASES)}, CURVES, {})


@pytest.mark.parametrize(
    'content',
    [
        b'',
        WHOLE[:-10],
        b'plain',
        gzip.compress(b'[1'),
        gzip.compress(b'[]'),
        gzip.compress(json.dumps(dict(measured={})).encode()),
        gzip.compress(json.dumps(dict(measured={'best': 3}, curves='', facts={})).encode()),
        gzip.compress(json.dumps(dict(measured='x', curves='', facts={})).encode()),
        gzip.compress(b'[' * 100_000),
        WHOLE[:20] + b'damaged' + WHOLE[27:],
        pickle.dumps(dict(measured={})),
    ],
    ids=[
        'empty',
        'cut',
        'plain',
        'no_json',
        'list',
        'no_curves',
        'no_measures',  # not its time
        'text',
        'deep',
        'damaged',
        'pickle',
    ],
)
def test_what_is_not_whole_is_refused(content):
    with pytest.raises(ValueError, match='not a whole result of a run'):
        unpack_result(content)


def test_a_bomb_is_not_unpacked(monkeypatch):
    monkeypatch.setattr(serialization, '_LARGEST_RESULT', 1 << 20)
    bomb = gzip.compress(b'[' + b' ' * (200 << 20) + b']', compresslevel=1)
    tracemalloc.start()
    with pytest.raises(ValueError, match='not a whole result .*it holds more than 1 MiB'):
        unpack_result(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 << 20
    monkeypatch.setattr(serialization, '_LARGEST_RESULT', 200)
    room = json.dumps(dict(measured={}, curves='epoch,key,value', facts={}))
    unpack_result(gzip.compress(room.ljust(200).encode()))
    with pytest.raises(ValueError, match='not a whole result'):
        unpack_result(gzip.compress(room.ljust(201).encode()))
