import gc

import torch

from mmkdml.evaluation.batches.sharing import shared


def counting():
    calls = []

    @shared
    def total(tensors, scale=1):
        calls.append(scale)
        return scale * sum(float(one.sum()) for one in tensors)

    return total, calls


def test_same_tensors_are_computed_once():
    total, calls = counting()
    a, b = torch.ones(2), torch.ones(3)
    assert [total([a, b]), total((a, b)), total([a, b], scale=2), total([a, b], scale=2)] == [
        5, 5, 10, 10
    ]  # fmt: skip
    assert calls == [1, 2]
    assert total([b, a]) == total([a.clone(), b]) == 5  # another order, an equal tensor
    assert len(calls) == 4


def test_modified_tensors_are_computed_again():
    total, calls = counting()
    a = torch.ones(2)
    assert total([a]) == 2
    a.add_(1)
    assert total([a]) == 4
    assert len(calls) == 2


def test_results_are_freed_with_any_of_their_tensors():
    total, _ = counting()
    double = shared(lambda tensors: 2 * tensors[0])
    a, b = torch.ones(2), torch.ones(3)
    total([a, b])
    total([double([b])])  # made of a result
    assert (len(total.entries), len(double.entries)) == (2, 1)
    gc.disable()  # without the help of the garbage collector
    try:
        del b
        assert (len(total.entries), len(double.entries)) == (0, 0)
    finally:
        gc.enable()
    assert total([a]) == 2


def test_other_tensors_at_the_same_address_are_computed():
    total, calls = counting()
    for value in range(20):
        assert total([torch.full((2,), float(value))]) == 2 * value
    assert len(calls) == 20


def test_tensors_of_inference_mode():
    total, calls = counting()
    with torch.inference_mode():
        a = torch.ones(2)
    assert total([a]) == total([a]) == 2
    assert len(calls) == 1
