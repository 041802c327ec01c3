import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkdml.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs' / 'demo'


@pytest.mark.slow
def test_a_checkpoint_with_its_card(tool, short, tmp_path, capsys):
    torch.manual_seed(0)
    config = CONFIGS / 'kdml_v3_demo.py'
    run, out = tmp_path / 'run.pth', tmp_path / 'out'
    torch.save(MODELS.build(Config.fromfile(config).model).state_dict(), run)
    args = (config, run, '--what', 'student_1', '--format', 'checkpoint', '--out', out)
    tool('export', *args, options=short, experiment=False)
    printed = capsys.readouterr().out
    assert 'It needs mmkdml for StemResNet, UNetHead' in printed
    name = 'kdml_v3_demo-student_1'
    endings = ('json', 'md', 'pth', 'py', 'safetensors')
    assert sorted(path.name for path in out.iterdir()) == [f'{name}.{end}' for end in endings]
    card = json.loads((out / f'{name}.json').read_text())
    assert [one['measure'] for one in card['scores']] == ['IoU', 'F1']

    with pytest.raises(SystemExit, match='export.py: error: .*out exists already; replace files'):
        tool('export', *args, options=short, experiment=False)
    with pytest.raises(SystemExit, match="error: .*student_2, ensemble to export, got 'pupil'"):
        tool('export', config, run, '--what', 'pupil', '--out', tmp_path / 'new', experiment=False)
    assert not (tmp_path / 'new').exists()
    with pytest.raises(SystemExit, match='2'):
        tool('export', *args, '--int8', '--images', tmp_path, experiment=False)
    assert '--int8 is measured on the test part: leave out --images' in capsys.readouterr().err
