"""Synthetic data, and tools that run on it in this process, which is faster, or in a new one."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmkdml.apis import load_config
from mmkdml.datasets import convert_lgg, make_demo_data
from mmkdml.registry import MODELS

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'


def subprocess_tool(*command, **environment):
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHON': sys.executable, **environment},
    )


@pytest.fixture(scope='session')
def once(tmp_path_factory):
    """Return a function that returns a folder that only the first process of the tests fills."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base

    def get(name, fill):
        folder = base / name
        with (base / f'{name}.lock').open('w') as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / 'filled').exists():
                folder.mkdir()
                fill(folder)
                (folder / 'filled').touch()
        return folder

    return get


@pytest.fixture(scope='session')
def data_options(once):
    """``--cfg-options`` for 24 synthetic slices: 16 to train, 4 to validate, 4 to test."""

    def fill(root):
        source = make_demo_data(root / 'kaggle_3m', patients=6, slices=4, size=64)
        convert_lgg(source, root / 'splits')

    root = once('data', fill)
    source = root / 'kaggle_3m'
    return [
        f'{part}_dataloader.dataset.{key}={value}'
        for part in ('train', 'val', 'test')
        for key, value in (('data_root', source), ('ann_file', root / 'splits' / f'{part}.csv'))
    ]


@pytest.fixture(scope='session')
def short(data_options):
    """``--cfg-options`` for two epochs of two steps, both with a checkpoint."""
    return [
        *data_options,
        'train_cfg.max_epochs=2',
        'param_scheduler.T_max=2',
        'default_hooks.checkpoint.max_keep_ckpts=2',
        'default_hooks.logger.interval=1',
    ]


@pytest.fixture(scope='session')
def trained(once, short):
    """Folder and output of a training started from the command line."""

    def fill(root):
        folder = root / 'run'
        done = subprocess_tool(
            ROOT / 'tools' / 'train.py', CONFIG, '--work-dir', folder, '--cfg-options', *short
        )
        assert done.returncode == 0, done.stderr
        (root / 'stdout').write_text(done.stdout)
        (root / 'stderr').write_text(done.stderr)

    root = once('trained', fill)
    output = SimpleNamespace(**{one: (root / one).read_text() for one in ('stdout', 'stderr')})
    return root / 'run', output


@pytest.fixture(scope='session')
def checkpoint(tmp_path_factory):
    """Checkpoint of the demo's segmentation classroom with random weights."""
    path = tmp_path_factory.mktemp('checkpoint') / 'x.pth'
    torch.manual_seed(0)
    torch.save(MODELS.build(load_config(CONFIG).model).state_dict(), path)
    return path


def pytest_collection_modifyitems(items):
    """Mark tests that need the trained run as slow."""
    for item in items:
        if 'trained' in getattr(item, 'fixturenames', ()):
            item.add_marker(pytest.mark.slow)
