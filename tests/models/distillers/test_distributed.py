import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name('distributed_worker.py')


def run_two(what, tmp_path):
    """Run the worker in two processes and return their results."""
    out = tmp_path / 'found.json'
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), tmp_path / 'store', out, what],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=500)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], '\n'.join(outputs)
    return json.loads(out.read_text())


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Compare gradients of all 12 variants, and weights after 20 steps of one task, in float32."""
    found = run_two('variants', tmp_path)
    assert len(found) == 24
    assert {name: gap for name, gap in found.items() if gap['gradients'] > 1e-9} == {}
    long = {name: gap for name, gap in found.items() if 'weights' in gap}
    assert len(long) == 12
    assert {name: gap for name, gap in long.items() if gap['weights'] > 1e-5} == {}
    assert {name: gap for name, gap in long.items() if gap['processes'] != 0} == {}
    # Otherwise all weights would be equal.
    assert {name: gap for name, gap in long.items() if gap['learnt'] < 1e-3} == {}


@pytest.fixture(scope='module')
def methods(tmp_path_factory):
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
