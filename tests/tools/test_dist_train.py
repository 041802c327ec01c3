import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmkdml.models.checkpoints import load_checkpoint_file

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / 'tools' / 'dist_train.sh'


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for machines without a GPU')
def test_two_processes(short, tmp_path, tool):
    """One of three slices is evaluated by both processes and counts once."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [
            'bash',
            SCRIPT,
            ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py',
            '2',
            '--work-dir',
            tmp_path,
            '--cfg-options',
            *short,
            'train_cfg.max_epochs=1',
            'train_dataloader.batch_size=4',
            'val_dataloader.dataset.indices=3',
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, 'PYTHON': sys.executable, 'MASTER_PORT': port, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr
    # 16 slices, two processes with batches of four: two steps.
    checkpoint = load_checkpoint_file(tmp_path / 'epoch_1.pth')
    assert (checkpoint['meta']['epoch'], checkpoint['meta']['iter']) == (1, 2)
    assert not any(key.startswith('module.') for key in checkpoint['state_dict'])
    assert done.stdout.count('Best so far') == 1  # only the main process prints

    (scalars,) = tmp_path.glob('*/vis_data/scalars.json')
    validated = json.loads(scalars.read_text().splitlines()[-1])
    (patients,) = (option for option in short if option.startswith('val_dataloader.dataset.ann'))
    tool(
        'test',
        ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py',
        tmp_path / 'epoch_1.pth',
        '--work-dir',
        tmp_path / 'single',
        '--out',
        tmp_path / 'single.json',
        options=[
            *short,
            patients.replace('val', 'test', 1),
            'test_dataloader.dataset.indices=3',
            'split_overlap=warn',  # of validation and test
        ],
    )
    single = json.loads((tmp_path / 'single.json').read_text())
    found = {key: value for key, value in validated.items() if 'foreground' in key}
    assert len(found) > 4
    assert found == pytest.approx({key: single[key] for key in found}, abs=1e-9)


def test_usage():
    done = subprocess.run(['bash', SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(f'usage: {SCRIPT} CONFIG PROCESSES')
