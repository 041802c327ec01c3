import json
import os
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
        env={**os.environ, 'PYTHON': sys.executable, 'OMP_NUM_THREADS': '1'},
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


@pytest.mark.parametrize(
    ('variables', 'options'),
    [
        ({}, ['--standalone', '--max_restarts=0']),  # torchrun chooses a free port
        (dict(MAX_RESTARTS='3'), ['--standalone', '--max_restarts=3']),
        (
            dict(NNODES='2', NODE_RANK='1', MASTER_ADDR='10.0.0.1'),
            ['--nnodes=2', '--node_rank=1', '--master_addr=10.0.0.1', '--master_port=29500'],
        ),
        (dict(MASTER_PORT='7'), ['--nnodes=1', '--master_addr=127.0.0.1', '--master_port=7']),
    ],
)
def test_options_of_torchrun(variables, options):
    done = subprocess.run(
        ['bash', SCRIPT, 'config.py', '2', '--amp'],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={'PATH': os.environ['PATH'], 'PYTHON': 'echo', **variables},
    )
    words = done.stdout.split()
    assert words[:2] == ['-m', 'torch.distributed.run']
    assert {*options, '--nproc_per_node=2'} <= {*words}
    assert ('--standalone' in words) == ('--standalone' in options)
    assert words[-5:] == [
        str(SCRIPT.with_name('train.py')), 'config.py', '--launcher', 'pytorch', '--amp'
    ]  # fmt: skip


def test_allocator_is_preloaded(tmp_path):
    python, library = tmp_path / 'python', tmp_path / 'liballocator.so'
    python.write_text('#!/bin/sh\necho "$LD_PRELOAD"\n')
    python.chmod(0o755)

    def start(**variables):
        return subprocess.run(
            ['bash', SCRIPT, 'config.py', '2'],
            capture_output=True,
            text=True,
            check=False,
            env={'PATH': os.environ['PATH'], 'PYTHON': str(python), **variables},
        )

    refused = start(MMKDML_MALLOC=str(library))
    assert refused.returncode == 2
    assert 'MMKDML_MALLOC: expected the file of an allocator' in refused.stderr
    assert f'got {library}' in refused.stderr
    library.touch()  # the loader ignores it, with a warning
    assert start(MMKDML_MALLOC=str(library)).stdout == f'{library}\n'
    assert start(MMKDML_MALLOC=str(library), LD_PRELOAD='a.so').stdout == f'{library}:a.so\n'
    assert start().stdout == '\n'


def test_usage():
    done = subprocess.run(['bash', SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith('usage: ')
    assert f'{SCRIPT} CONFIG PROCESSES' in done.stderr
