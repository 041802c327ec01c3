"""The examples in CONTRIBUTING.md work as they are."""

import re
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

import mmkdml.functional
from mmkdml.models import transfers
from mmkdml.registry import DATASETS, METRICS, MODELS

ROOT = Path(__file__).parents[1]
EXAMPLES = dict(
    re.findall(
        r'^ *```python\n *# (\S+)\n(.*?)^ *```',
        (ROOT / 'CONTRIBUTING.md').read_text(),
        re.DOTALL | re.MULTILINE,
    )
)


def run(path, **names):
    code = compile(textwrap.dedent(EXAMPLES[path]), path, 'exec')
    names = {'__name__': path, **names}
    exec(code, names)
    return names


@pytest.fixture(autouse=True)
def registries(monkeypatch):
    """Forget what the examples register."""
    for registry in (DATASETS, METRICS, MODELS):
        monkeypatch.setattr(registry, '_module_dict', dict(registry._module_dict))


def test_loss(monkeypatch):
    huber = run('mmkdml/functional/feature.py')['feature_huber']
    monkeypatch.setattr(mmkdml.functional, 'feature_huber', huber, raising=False)
    run('mmkdml/models/losses/feature_huber.py')
    check = run('tests/functional/test_feature.py')['test_huber_closed_form']
    ((_, cases),) = [mark.args for mark in check.pytestmark]
    for case in cases:
        check(*case)
    source = torch.randn(2, 3, 4, 4)
    loss = MODELS.build(dict(type='FeatureHuberLoss', delta=0.5))
    assert loss(source + 2, source).item() == pytest.approx(0.5 * (2 - 0.25))
    with pytest.raises(ValueError, match=r'\(2, 3, 4, 4\).*\(2, 3, 4\)'):
        loss(source, source[..., 0])


def test_style(monkeypatch):
    tables = {
        name: {mode: dict(styles) for mode, styles in getattr(transfers, name).items()}
        for name in ('FROM_TEACHER', 'FROM_PEER')
    }
    names = run('mmkdml/models/transfers.py', **{**vars(transfers), **tables})
    for name in (*tables, 'STYLES'):
        monkeypatch.setattr(transfers, name, names[name])
    half = dict.fromkeys(('alpha', 'beta', 'gamma'), (0.5, 0.5))
    rows = [
        (row.source, row.learner, row.knowledge)
        for row in transfers.transfers_for('kdml', 'v4', half)
    ]
    assert rows == [
        ('teacher', 'student_1', 'predictions'),
        ('student_2', 'student_1', 'features'),
        ('teacher', 'student_2', 'predictions'),
        ('student_1', 'student_2', 'features'),
    ]


def test_task_table_is_complete():
    from mmkdml.models.tasks import Task

    table = (ROOT / 'CONTRIBUTING.md').read_text().partition('## Adding a task')[2]
    named = re.findall(r'^\| (`.*?`) \|', table.partition('## ')[0], re.MULTILINE)
    assert set(re.findall(r'`(\w+)`', ' '.join(named))) == Task.__abstractmethods__


def test_data_set(slices):
    run('mmkdml/datasets/kvasir.py')
    source, split = slices
    data = DATASETS.build(
        dict(type='KvasirSegDataset', data_root=str(source), ann_file=str(split), pipeline=[])
    )
    assert len(data) == 16
    assert data.metainfo['classes'] == ('background', 'polyp')


def test_metric():
    run('mmkdml/evaluation/specificity.py')
    metric = METRICS.build(dict(type='BackgroundSpecificity'))
    truth = torch.tensor([[[0, 0, 0, 1]]])
    pred = torch.tensor([[[0, 1, 0, 0]]])
    metric.process(None, [dict(gt_sem_seg=dict(data=truth), pred_sem_seg=dict(data=pred))])
    assert metric.evaluate(1)['specificity'] == pytest.approx(200 / 3)


def test_tool(slices, tmp_path, monkeypatch, capsys):
    source, split = slices
    data = dict(
        dataset=dict(
            type='mmkdml.LGGDataset', data_root=str(source), ann_file=str(split), pipeline=[]
        )
    )
    loaders = {f'{part}_dataloader': data for part in ('train', 'val', 'test')}
    Config(loaders).dump(tmp_path / 'mine.py')
    monkeypatch.setattr(sys, 'argv', ['count_images.py', str(tmp_path / 'mine.py')])
    run('tools/count_images.py')['main']()
    assert capsys.readouterr().out.split() == ['train', '16', 'val', '16', 'test', '16']


def test_every_example_is_tested():
    assert len(EXAMPLES) == 7
