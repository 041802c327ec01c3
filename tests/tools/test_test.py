import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmkdml.evaluation import ForegroundIoU
from mmkdml.models.checkpoints import load_checkpoint_file

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / 'configs' / 'demo' / 'kdml_v3_demo.py'


def test_folder_is_its_best_checkpoint(trained, tool, short, tmp_path):
    folder, _ = trained
    (best,) = folder.glob('best_*.pth')
    for name, checkpoint in (('folder', folder), ('best', best)):
        tool(
            'test',
            CONFIG,
            checkpoint,
            '--work-dir',
            tmp_path,
            '--out',
            tmp_path / f'{name}.json',
            options=short,
        )
    metrics = json.loads((tmp_path / 'folder.json').read_text())
    assert metrics == json.loads((tmp_path / 'best.json').read_text())
    for member in ('teacher', 'student_1', 'student_2', 'ensemble'):
        for metric in ('IoU', 'F1', 'case_IoU', 'case_F1'):
            assert 0 <= metrics[f'{member}/foreground/{metric}'] <= 100
    assert (tmp_path / 'panels' / 'panels.png').is_file()


def test_undefined_metrics_are_null(checkpoint, tool, short, tmp_path, monkeypatch):
    def refuse(word):
        raise ValueError(word)

    undefined = {'IoU': math.nan, 'F1': math.inf}
    monkeypatch.setattr(ForegroundIoU, 'compute_metrics', lambda *_: undefined)
    out = tmp_path / 'metrics.json'
    tool('test', CONFIG, checkpoint, '--work-dir', tmp_path, '--out', out, options=short)
    files = list(tmp_path.rglob('*.json'))
    assert len(files) == 2
    for path in files:
        content = json.loads(path.read_text(), parse_constant=refuse)
        assert content['teacher/foreground/IoU'] is content['teacher/foreground/F1'] is None


def test_truncated_checkpoint_is_one_line(trained, short, tmp_path):
    truncated = tmp_path / 'truncated.pth'
    truncated.write_bytes((trained[0] / 'epoch_1.pth').read_bytes()[:5000])
    done = subprocess.run(
        [
            sys.executable,
            ROOT / 'tools' / 'test.py',
            CONFIG,
            truncated,
            '--work-dir',
            tmp_path,
            '--cfg-options',
            *short,
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 1
    assert 'Traceback' not in done.stderr
    assert f'test.py: error: {truncated} is not a valid checkpoint' in done.stderr


@pytest.mark.parametrize('nested', [False, True])
def test_code_in_checkpoint_is_not_executed(
    trained, tool, short, tmp_path, monkeypatch, nested, payload
):
    made, checkpoint = tmp_path / 'made', tmp_path / 'malicious.pth'
    content = load_checkpoint_file(trained[0] / 'epoch_1.pth')
    content['meta' if nested else 'state_dict'] = payload(made)
    torch.save(content, checkpoint)
    for name, args in (('test', [checkpoint]), ('train', ['--resume', checkpoint])):
        with pytest.raises(SystemExit, match='is not a valid checkpoint'):
            tool(name, CONFIG, *args, '--work-dir', tmp_path, options=short)
    assert not made.exists()
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')
    torch.load(checkpoint, weights_only=False)['meta' if nested else 'state_dict'].close()
    assert made.exists()  # unpickling does execute it


def test_checkpoint_of_another_network_is_one_line(trained, tool, short, tmp_path):
    checkpoint = tmp_path / 'other.pth'
    weights = load_checkpoint_file(trained[0] / 'epoch_1.pth')['state_dict']
    torch.save({key: value for key, value in weights.items() if 'student_2' not in key}, checkpoint)
    with pytest.raises(SystemExit) as stopped:
        tool('test', CONFIG, checkpoint, '--work-dir', tmp_path, options=short)
    assert f'{checkpoint} does not fit the model of this config' in str(stopped.value)
    assert 'missing: members.student_2.backbone.conv1.weight;' in str(stopped.value)


def test_missing_checkpoint_is_one_line(tool, short, tmp_path):
    with pytest.raises(SystemExit, match='test.py: error: There is no checkpoint at nowhere'):
        tool('test', CONFIG, 'nowhere', '--work-dir', tmp_path, options=short)
