import json
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.registry import MODELS

CONFIG = Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py'


@pytest.mark.slow
def test_published_ensemble_has_the_same_metrics(tool, short, tmp_path, capsys):
    torch.manual_seed(0)
    run = tmp_path / 'run.pth'  # random students differ and predict some foreground
    model = MODELS.build(Config.fromfile(CONFIG).model)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(epoch=7)), run)
    tool('publish', CONFIG, run, '--out', tmp_path / 'out', options=short, experiment=False)
    command = capsys.readouterr().out.splitlines()[-1]
    config, checkpoint = command.removeprefix('python tools/test.py ').split()
    assert not any('teacher' in key for key in load_checkpoint_file(checkpoint)['state_dict'])
    assert re.fullmatch(r'kdml_v3_demo-[0-9a-f]{8}\.pth', Path(checkpoint).name)

    metrics = []
    for name, args, options in (
        ('classroom', (CONFIG, run), short),
        ('published', (config, checkpoint), ()),
    ):
        tool('test', *args, '--work-dir', tmp_path, '--out', tmp_path / name, options=options)
        metrics.append(json.loads((tmp_path / name).read_text()))
    classroom, published = metrics
    assert any(key.startswith('teacher/') for key in classroom)
    # Metrics that compare with the teacher are removed with it.
    assert published == {
        key: value
        for key, value in classroom.items()
        if not key.startswith('teacher/') and '/fidelity/' not in key
    }
    assert 'students/diversity/disagreement' in published
    assert published['student_1/foreground/IoU'] != published['student_2/foreground/IoU']
    assert published['ensemble/foreground/IoU'] > 0

    with pytest.raises(SystemExit, match='publish.py: error: .*already exists.*--force'):
        tool('publish', CONFIG, run, '--out', tmp_path / 'out', experiment=False)
