import json
import subprocess
import sys
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name('distributed_worker.py')


@pytest.mark.slow
def test_two_processes_give_one_process_gradients(tmp_path):
    """All 12 variants of both tasks, without ``find_unused_parameters``."""
    out = tmp_path / 'gaps.json'
    workers = [
        subprocess.Popen(
            [sys.executable, WORKER, str(rank), tmp_path / 'store', out],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], '\n'.join(outputs)
    gaps = json.loads(out.read_text())
    assert len(gaps) == 24
    assert {name: gap for name, gap in gaps.items() if gap > 1e-9} == {}
