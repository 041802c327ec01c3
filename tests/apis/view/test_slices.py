from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mmkdml.apis import Answer
from mmkdml.apis.view.slices import CaseCache, ViewSlice, pack, unpack

RNG = np.random.default_rng(0)


def masks(classes=3, size=(8, 9)):
    scores = RNG.random((classes, *size)).astype(np.float32)
    return Answer(scores.argmax(0).astype(np.uint8), scores)


def view(**answers):
    return ViewSlice(RNG.integers(0, 256, (8, 9, 3)).astype(np.uint8), answers, spacing=(2.0, 1.0))


def test_packing_keeps_all_but_the_last_digits_of_scores():
    boxes = Answer(np.array([1]), np.array([0.3], np.float32), np.zeros((1, 4), np.float32))
    one = view(teacher=masks(), one=masks(1), box=boxes, image=Answer(2, np.array([0.123, 0.877])))
    same = unpack(pack(one))
    np.testing.assert_array_equal(same.image, one.image)
    assert (same.spacing, same.truth, list(same.answers)) == ((2.0, 1.0), None, list(one.answers))
    for name, answer in one.answers.items():
        np.testing.assert_array_equal(same.answers[name].label, answer.label)
        steps = answer.scores.ndim == 3
        np.testing.assert_allclose(
            same.answers[name].scores, answer.probabilities, rtol=0, atol=steps * 0.501 / 255
        )
    np.testing.assert_array_equal(same.answers['box'].boxes, boxes.boxes)


def test_cases_are_predicted_once_and_the_oldest_ones_dropped():
    loaded = []

    def load(name):
        loaded.append(name)
        return [view(model=masks()) for _ in range(2)]

    size = sum(map(len, CaseCache(load).get('a')))
    cache = CaseCache(load, limit=int(2.5 * size))
    loaded.clear()
    for name in 'ababacacb':  # c replaces b, which was used longer ago than a
        assert len(cache.get(name)) == 2
    assert loaded == [*'abcb']
    large = CaseCache(load, limit=1)
    assert large.get('a') is large.get('a')


def test_requests_at_the_same_time_predict_once():
    loaded = []

    def load(name):
        loaded.append(name)
        yield view(model=masks())

    cache = CaseCache(load)
    with ThreadPoolExecutor(8) as pool:
        assert len({id(one) for one in pool.map(cache.get, 'a' * 8)}) == 1
    assert loaded == ['a']


def test_failures_are_not_kept():
    broken = [True]

    def load(name):
        yield view(model=masks())
        if broken:
            raise ValueError(f'{name} is unreadable')

    cache = CaseCache(load)
    with pytest.raises(ValueError, match='a is unreadable'):
        cache.get('a')
    broken.clear()
    assert len(cache.get('a')) == 1
