import pytest
import torch

from benchmarks import timing
from benchmarks.timing import median_seconds, named_errors, peak_memory


def test_steps_take_turns_and_the_first_turn_does_not_count(monkeypatch):
    seconds = dict(a=[100.0, 1.0, 5.0, 2.0], b=[100.0, 7.0, 7.0, 4.0])
    clock, turns = [0.0], []
    monkeypatch.setattr(timing.time, 'perf_counter', lambda: clock[0])

    def step(name):
        clock[0] += seconds[name][turns.count(name)]
        turns.append(name)

    steps = {name: (lambda name=name: step(name)) for name in seconds}
    assert median_seconds(steps, rounds=3) == dict(a=2.0, b=7.0)
    assert turns == ['a', 'b'] * 4


def test_rounds_below_one_are_refused():
    with pytest.raises(ValueError, match='rounds must be at least 1, got 0'):
        median_seconds({}, rounds=0)


def test_an_error_carries_the_name_of_its_step():
    def fail():
        raise ValueError('no batch')

    with pytest.raises(ValueError, match='^teacher: no batch$'):
        median_seconds(dict(teacher=fail), rounds=1)
    with pytest.raises(TypeError, match='^not of this kind$'), named_errors('teacher'):
        raise TypeError('not of this kind')


def test_what_a_process_of_its_own_fills_is_counted():
    assert peak_memory(torch.ones, 64, 1024, 1024) == pytest.approx(256, rel=0.1)
