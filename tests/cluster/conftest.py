"""Real schedulers and databases on this machine; `make cluster-test` runs them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from mmkdml.apis import load_config
from mmkdml.datasets import convert_lgg, make_demo_data
from mmkdml.models.checkpoints import load_checkpoint_file

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
sys.path.insert(0, str(FOLDER))  # for the helpers next to the tests
# Of trainings.
VARIABLES = dict(
    PYTHON=sys.executable,
    PYTHONPATH=f'{ROOT}:{FOLDER}',
    PYTHONUNBUFFERED='1',
    OMP_NUM_THREADS='1',
    CPUS_PER_TASK='1',
)


def pytest_collection_modifyitems(items):
    if os.environ.get('MMKDML_CLUSTER_TEST') != '1':
        for item in items:
            if item.path.parent == FOLDER:
                item.add_marker(pytest.mark.skip(reason='run by `make cluster-test`'))


@pytest.fixture(scope='session')
def slurm():
    """A running Slurm cluster of two nodes."""
    from slurm import Slurm, missing_programs

    if missing := missing_programs():
        pytest.skip(
            f'Slurm is not installed ({", ".join(missing)} missing): apt-get install slurmctld '
            'slurmd slurm-client munge'
        )
    # A socket's path is short.
    with tempfile.TemporaryDirectory(prefix='slurm') as folder, Slurm(folder) as cluster:
        yield cluster


@pytest.fixture(scope='session')
def small_config(tmp_path_factory):
    """Config file of a short training, and a file that slows it down while it exists."""
    root = tmp_path_factory.mktemp('config')
    source = make_demo_data(root / 'kaggle_3m', patients=6, slices=4, size=64)
    convert_lgg(source, root / 'splits')
    config = load_config(ROOT / 'configs' / 'demo' / 'student_demo.py')
    for part in ('train', 'val', 'test'):
        data = dict(data_root=str(source), ann_file=str(root / 'splits' / f'{part}.csv'))
        config[f'{part}_dataloader'].dataset.update(data)
    config.train_dataloader.batch_size = 4
    config.train_cfg.max_epochs = config.param_scheduler.T_max = 20
    config.train_cfg.val_interval = 10
    config.custom_imports = dict(imports=['pace'])
    pace = dict(type='PaceHook', path=str(root / 'slow'))
    config.custom_hooks = [*config.custom_hooks, pace]
    config.dump(root / 'small.py')
    return root / 'small.py', root / 'slow'


@pytest.fixture(scope='session')
def two_processes(small_config, tmp_path_factory):
    """Folder of the undisturbed training with two processes."""
    folder = tmp_path_factory.mktemp('two')
    command = ['bash', ROOT / 'tools' / 'dist_train.sh', small_config[0], '2', '--work-dir', folder]
    subprocess.run(command, env={**os.environ, **VARIABLES}, check=True)
    return folder


def _plain(value):
    """Return a state that can be compared exactly."""
    if isinstance(value, torch.Tensor):
        return value.dtype, value.shape, value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


@pytest.fixture(scope='session')
def compare():
    """Return a function that checks that two trainings ended with the same checkpoint."""

    def check(folder, other, name='epoch_20.pth'):
        first, second = (load_checkpoint_file(one / name) for one in (folder, other))
        assert first['state_dict'].keys() == second['state_dict'].keys()
        for part in ('state_dict', 'optimizer', 'param_schedulers'):
            assert _plain(first[part]) == _plain(second[part]), f'{part} differs'
        assert first['meta']['iter'] == second['meta']['iter'] == 40

    return check
