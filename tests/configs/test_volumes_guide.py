"""docs/volumes.md, executed with synthetic data up to a training step."""

import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner

from mmkdml.apis import load_config
from mmkdml.commands import command_tools
from mmkdml.registry import MODELS

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / 'docs' / 'volumes.md').read_text()
COMMANDS = re.findall(r'^    (mmkdml .*)$', GUIDE, re.MULTILINE)
CONFIG, CONTEXT = re.findall(r'```python\n(.*?)```', GUIDE, re.DOTALL)


@pytest.mark.parametrize('context', [0, 1])
def test_config_of_eight_lines_trains(
    tmp_path, monkeypatch, save_volumes, draw_cases, context, recycled_noise
):
    assert len(CONFIG.split('\n\n')[1].splitlines()) == 8  # besides the import of read_base
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    monkeypatch.chdir(tmp_path)
    cases = draw_cases(channels=2, classes=3, shape=(20, 30, 4))
    save_volumes(
        Path('data/Task04_Hippocampus'), cases, ('T1', 'CT'), ('background', 'Anterior', 'b')
    )
    _, group, name, *sys.argv[1:] = shlex.split(COMMANDS[0])
    runpy.run_path(str(command_tools()[f'{group} {name}']), run_name='__main__')
    path = Path('configs/kdml_v3_hippocampus.py')
    path.write_text(CONFIG + CONTEXT * context)
    config = load_config(path)
    assert f'mmkdml test {config.work_dir}' in COMMANDS
    assert f'mmkdml train {path}' in COMMANDS
    config.train_dataloader.update(batch_size=2, num_workers=0, persistent_workers=False)
    batch = next(iter(Runner.build_dataloader(config.train_dataloader, seed=0)))
    assert batch['inputs'][0].shape == (2 * (2 * context + 1), 32, 32)
    sample = batch['data_samples'][0]
    assert {'case', 'slice', 'slices', 'spacing', 'id', 'group'} <= {*sample.all_keys()}
    assert sample.spacing == (3.0, 1.0, 1.0)
    torch.manual_seed(0)
    model = MODELS.build(config.model)
    losses = model.train().train_step(batch, build_optim_wrapper(model, config.optim_wrapper))
    assert all(value.isfinite() for value in losses.values())
    predicted = model.eval().val_step(batch)[0]
    assert predicted.pred_sem_seg.data.shape[-2:] == sample.ori_shape
    dumped = Path('run.py')  # as in the folder of a run: it needs no data
    config.dump(dumped)
    shutil.rmtree('data')
    own = load_config(dumped).test_dataloader.dataset.pipeline[1]
    assert [one.scheme for one in own.channels] == ['zscore', 'ct']
    assert own.channels[1].high > own.channels[1].low
