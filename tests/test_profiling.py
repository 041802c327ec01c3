import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from mmkdml.profiling import PREFIX, part


def recorded(step):
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    return {event.name: event for event in profiler.events()}


def test_part_contains_its_operations():
    def step():
        with part('one'):
            torch.ones(4, 4) @ torch.ones(4, 4)
        with part('two'):
            torch.ones(3).sum()

    events = recorded(step)
    product, one, two = (events[name] for name in ('aten::mm', f'{PREFIX}one', f'{PREFIX}two'))
    assert one.time_range.start <= product.time_range.start
    assert product.time_range.end <= one.time_range.end <= two.time_range.start


def test_part_does_nothing_without_profiler(monkeypatch):
    monkeypatch.setattr('mmkdml.profiling.record_function', None)
    with part('one'):
        pass
    with pytest.raises(TypeError, match='not callable'):
        recorded(lambda: part('one').__enter__())


def test_part_synchronizes_the_gpu(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda: order.append('waited'))

    def step():
        with part('one'):
            order.append('done')

    recorded(step)
    assert order == ['done', 'waited']


def test_errors_are_raised():
    def step():
        with part('one'):
            raise KeyError('x')

    with pytest.raises(KeyError, match='x'):
        recorded(step)


@pytest.mark.slow
def test_compiled_step_has_no_graph_break():
    def step(x):
        with part('one'):
            return x.sin() + 1

    compiled = torch.compile(step, fullgraph=True, backend='eager')
    x = torch.arange(3.0)
    assert torch.equal(compiled(x), x.sin() + 1)
