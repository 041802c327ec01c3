import json
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name('distributed_worker.py')


@pytest.fixture(scope='module')
def run_two(run_scripts):
    """Return a function that runs the worker in two processes and returns their results."""

    def run(what, folder):
        out = folder / 'found.json'
        run_scripts(*((WORKER, rank, folder / 'store', out, what) for rank in range(2)))
        return json.loads(out.read_text())

    return run


@pytest.mark.slow
def test_two_processes_equal_one(run_two, tmp_path):
    """Compare gradients of all 12 variants, and weights after 8 steps of one task, in float32."""
    found = run_two('variants', tmp_path)
    assert len(found) == 24
    assert {name: gap for name, gap in found.items() if gap['gradients'] > 1e-9} == {}
    long = {name: gap for name, gap in found.items() if 'weights' in gap}
    assert len(long) == 12
    assert {name: gap for name, gap in long.items() if gap['weights'] > 1e-6} == {}
    assert {name: gap for name, gap in long.items() if gap['processes'] != 0} == {}
    # Otherwise all weights would be equal.
    assert {name: gap for name, gap in long.items() if gap['learnt'] < 1e-3} == {}


@pytest.fixture(scope='module')
def methods(run_two, tmp_path_factory):
    return run_two('methods', tmp_path_factory.mktemp('methods'))


@pytest.mark.slow
def test_processes_take_equal_steps_of_every_method(methods):
    """Compare the gradients of all methods, whose parameters are all used."""
    gaps = methods['methods']
    assert len(gaps) == 14 + 12  # with plain distillation of each task and a discriminator
    # Before averaging, the gradients of both halves of the batch differ.
    assert {name: gap for name, gap in gaps.items() if gap[0] == 0} == {}
    assert {name: gap for name, gap in gaps.items() if gap[1] != 0} == {}


@pytest.mark.slow
def test_processes_take_equal_steps_with_weights_that_change(methods):
    """Compare the gradients of steps with and without a transfer, and those of learned weights."""
    assert len(methods['changing']) == 3
    assert {name: gap for name, gap in methods['changing'].items() if gap > 1e-9} == {}
