"""The core without the packages of the extras: it trains and tests, the rest names its extra."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkdml.apis import load_config

ROOT = Path(__file__).parents[1]
# Without pydantic and scipy, which albumentations requires.
BLOCKED = {
    'experiments': ('mpltern', 'optuna', 'sqlalchemy'),
    'analysis': ('captum',),
    'export': ('onnx', 'onnxruntime', 'onnxscript'),
    'medical': ('highdicom', 'nibabel', 'pydicom', 'pylibjpeg'),
    'detection': ('mmdet', 'pycocotools', 'shapely', 'terminaltables'),
    'view': ('gradio',),
}
BLOCK = f"""
import sys

class Finder:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] not in {tuple(sum(BLOCKED.values(), ()))}:
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path = [Finder(finder) for finder in sys.meta_path]
"""
IMPORTS = {
    'import mmkdml.experiments': 'experiments',
    'from mmkdml.experiments.suites.store import SuiteStore': 'experiments',
    'import mmkdml.experiments.tuning.tuner': 'experiments',
    'import mmkdml.analysis': 'analysis',
    'from mmkdml.apis.export.graph import _require; _require("onnx")': 'export',
    'from mmkdml.apis.prediction import nifti; nifti.read_nifti("x.nii")': 'medical',
    'from mmkdml.optional import require; require("mmdet", extra="detection", purpose="x")': (
        'detection'
    ),
    'from mmkdml.apis.view import view; view(None)': 'view',
}
SCRIPT = f"""
from mmkdml.apis import load_config, load_weights, make_runner, newest_checkpoint, run_tool
path, work_dir = sys.argv[1:]
make_runner(load_config(path, work_dir=work_dir)).train()
runner = make_runner(load_config(path, work_dir=work_dir), train=False)
load_weights(runner, newest_checkpoint(work_dir))
print(sorted(runner.test()))
import mmkdml.inspection
from mmkdml.apis import predict_files, publish
for statement in {list(IMPORTS)}:
    try:
        run_tool(lambda: exec(statement))
    except SystemExit as stopped:
        print(stopped.code)
"""


@pytest.fixture(scope='module')
def lines(slices, tmp_path_factory):
    """Lines that a process without extras prints: metrics, then an error for each import."""
    folder = tmp_path_factory.mktemp('core')
    source, split = slices
    options = {'train_cfg.max_epochs': 1, 'train_dataloader.dataset.indices': 8}
    options['split_overlap'] = 'warn'
    for part in ('train', 'val', 'test'):
        options[f'{part}_dataloader.dataset.data_root'] = str(source)
        options[f'{part}_dataloader.dataset.ann_file'] = str(split)
    config = load_config(ROOT / 'configs/demo/kdml_v3_demo.py', options)
    config.train_dataloader.batch_size = 8  # one step
    config.dump(folder / 'tiny.py')
    assert Config.fromfile(folder / 'tiny.py').train_cfg.max_epochs == 1
    done = subprocess.run(
        [sys.executable, '-c', BLOCK + SCRIPT, folder / 'tiny.py', folder / 'run'],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_core_trains_and_tests_without_extras(lines):
    assert 'student_1/foreground/IoU' in lines[-1 - len(IMPORTS)]


def test_missing_extra_is_one_line_with_the_pip_command(lines):
    for line, extra in zip(lines[-len(IMPORTS) :], IMPORTS.values(), strict=True):
        assert re.search(rf': ({"|".join(BLOCKED[extra])}) is not installed', line)
        assert f"pip install 'mmkdml[{extra}]'" in line
