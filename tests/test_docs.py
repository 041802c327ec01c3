"""The examples of the guides run as written."""

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmkdml.datasets import convert_lgg, make_demo_data
from mmkdml.models import KnowledgeDistiller
from mmkdml.registry import HOOKS, METRICS, MODELS

DOCS = Path(__file__).parents[1] / 'docs'


def examples(name):
    return re.findall(r'```python\n(.*?)```', (DOCS / name).read_text(), re.DOTALL)


def test_all_examples_are_python():
    for page in DOCS.glob('*.md'):
        for number, code in enumerate(examples(page.name)):
            compile(code, f'{page.name}, example {number}', 'exec')


def test_a_run_of_ones_own(tmp_path):
    code = examples('training.md')[0]
    (tmp_path / 'my_run.py').write_text(code)
    config = Config.fromfile(tmp_path / 'my_run.py')
    assert (config.model.style, config.model.temperature) == ('v1', 4.0)
    assert (config.train_cfg.max_epochs, config.train_dataloader.batch_size) == (50, 16)


def test_settings_of_the_frameworks(tmp_path):
    _, settings, layers = examples('training.md')
    (tmp_path / 'my_settings.py').write_text(settings)
    config = Config.fromfile(tmp_path / 'my_settings.py')
    hooks = [type(HOOKS.build(dict(one))).__name__ for one in config.custom_hooks]
    assert {'ExactResumeHook', 'EMAHook', 'EarlyStoppingHook'} <= {*hooks}
    assert config.optim_wrapper.accumulative_counts == 4
    vit = dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmpretrain.VisionTransformer', arch='deit-tiny', img_size=32),
        head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=2, in_channels=192),
    )
    members = dict(teacher=vit, student=vit)
    model = KnowledgeDistiller(members=members, transfers=[], input_size=(32, 32))
    names = {}
    exec(layers, names)
    rates = {
        group['lr'] for group in build_optim_wrapper(model, names['optim_wrapper']).param_groups
    }
    assert min(rates) < 1e-4
    assert max(rates) == 1e-3


def test_metrics_in_a_config():
    metrics, hooks, clinical = ({}, {}, {})
    for code, names in zip(examples('evaluation.md'), (metrics, hooks, clinical), strict=True):
        exec(code, names)
    for name in ('of_masks', 'of_classes'):
        assert isinstance(METRICS.build(clinical[name]), clinical[name]['type'])
    evaluators = [METRICS.build(config) for config in metrics['test_evaluator']]
    assert [type(one).__name__ for one in evaluators] == [
        'MemberMetrics', 'Fidelity', 'Diversity', 'Calibration',
    ]  # fmt: skip
    assert HOOKS.build(hooks['default_hooks']['checkpoint']).save_best == ['ensemble/accuracy/top1']


def test_ones_own_classroom():
    code, resized, ignoring, *_ = examples('custom_classrooms.md')
    names = {}
    exec(code, names)
    classroom = names['classroom']
    assert classroom.student_names == ('middle', 'small')
    logits = classroom(torch.zeros(1, 3, 64, 64), mode='tensor')
    assert {name: tuple(one.shape) for name, one in logits.items()} == dict.fromkeys(
        ('big', 'middle', 'small'), (1, 2)
    )
    names = dict(model={})
    exec(resized + ignoring, names)
    assert names['model']['resize'] == dict(predictions='source')
    assert MODELS.build(names['model']['losses']['predictions']).needs_truth


def test_transformer_teaches_a_resnet():
    code, *others = examples('custom_classrooms.md')
    names = {}
    exec(code, names)
    exec(next(one for one in others if 'VisionTransformer' in one), names)
    (term,) = names['classroom'].transfer_terms
    assert term.source_shape == (1, 197, 192)
    assert term.learner_shape == (1, 512, 7, 7)


@pytest.mark.slow
def test_cka_from_python(tmp_path, monkeypatch):
    (code,) = examples('analysis.md')
    source = make_demo_data(tmp_path / 'data/demo/kaggle_3m', patients=6, slices=4, size=64)
    convert_lgg(source, tmp_path / 'data/demo/splits')
    config = Config.fromfile(DOCS.parent / 'configs' / 'demo' / 'kdml_v3_demo.py')
    folder = tmp_path / 'work_dirs' / 'kdml' / 'r50_r18x2_v3_lgg'
    folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    torch.save(MODELS.build(config.model).state_dict(), folder / 'best_x_epoch_1.pth')
    config.dump(folder / 'demo.py')
    names = {}
    exec(code, names)
    assert set(names['table']['column']) == {'student_1'}
    assert (tmp_path / 'cka.png').stat().st_size > 10_000
