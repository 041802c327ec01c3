import time

import pytest
import torch

from benchmarks.timing import median_seconds, named_errors, peak_memory


def test_steps_are_interleaved_after_a_warm_up(monkeypatch):
    seconds = dict(a=[100.0, 1.0, 5.0, 2.0], b=[100.0, 7.0, 7.0, 4.0])
    clock, turns = [0.0], []
    monkeypatch.setattr(time, 'perf_counter', lambda: clock[0])

    def step(name):
        clock[0] += seconds[name][turns.count(name)]
        turns.append(name)

    steps = {name: (lambda name=name: step(name)) for name in seconds}
    assert median_seconds(steps, rounds=3) == dict(a=2.0, b=7.0)
    assert turns == ['a', 'b'] * 4


def test_rounds_below_one_raise():
    with pytest.raises(ValueError, match='rounds: expected at least 1, got 0'):
        median_seconds({}, rounds=0)


def test_errors_have_the_name_of_the_step():
    def fail():
        raise ValueError('no batch')

    with pytest.raises(ValueError, match='^teacher: no batch$'):
        median_seconds(dict(teacher=fail), rounds=1)
    with pytest.raises(TypeError, match='^not of this kind$'), named_errors('teacher'):
        raise TypeError('not of this kind')


def test_peak_memory_of_a_new_process():
    assert peak_memory(torch.ones, 64, 1024, 1024) == pytest.approx(256, rel=0.1)
