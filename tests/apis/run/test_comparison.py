"""Configs that differ from the settings of the run whose weights are used."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from mmkdml.apis import load, load_config, load_run, load_trained, load_weights, publish
from mmkdml.apis.run.comparison import evaluation_changes, recorded_config

DEMO = Path(__file__).parents[3] / 'configs' / 'demo' / 'kdml_v3_demo.py'
OPTION = {'model.students.0.decode_head.dropout_ratio': 0.5}


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Folder of a run that was trained with an option."""
    folder = tmp_path_factory.mktemp('run')
    (folder / 'best_x_epoch_1.pth').write_bytes(b'')
    config = load_config(DEMO, OPTION, folder)
    config.dump(folder / DEMO.name)
    return folder


def test_own_config_of_a_run_is_used(run, tmp_path):
    config, checkpoint = load_run(run)
    assert config.model.students[0].decode_head.dropout_ratio == 0.5
    assert (config.work_dir, checkpoint) == (str(run), run / 'best_x_epoch_1.pth')
    config, _ = load_run(run, options={'test_dataloader.batch_size': 3}, work_dir=tmp_path)
    assert (config.test_dataloader.batch_size, config.work_dir) == (3, str(tmp_path))
    assert load_config(run).filename == str(run / DEMO.name)


def test_config_that_differs_requires_a_decision(run, capsys):
    key = 'model.students.0.decode_head.dropout_ratio: 0.5 -> '
    with pytest.raises(ValueError, match=key) as refused:
        load_run(DEMO, run)
    assert all(fact in str(refused.value) for fact in (f'pass only {run}', '--use-config'))
    assert capsys.readouterr().err == ''
    config, _ = load_run(DEMO, run, use_config=True)
    assert config.work_dir == str(Path('work_dirs/demo/kdml_v3_demo'))
    assert key in capsys.readouterr().err
    with pytest.raises(ValueError, match='--use-config requires a config'):
        load_run(run, use_config=True)


def test_equal_settings_are_accepted(run, capsys):
    for more in (
        {},
        {'test_dataloader.batch_size': 2, 'test_dataloader.num_workers': 0},
        {'train_cfg.max_epochs': 3, 'default_hooks.logger.interval': 7},
    ):
        config, _ = load_run(DEMO, run, {**OPTION, **more})
        assert config.work_dir == str(run)
    load_run(run / DEMO.name, run)
    assert capsys.readouterr().err == ''


def test_named_checkpoint_is_an_explicit_choice(run, capsys):
    load_run(DEMO, run / 'best_x_epoch_1.pth')
    assert 'dropout_ratio' in capsys.readouterr().err


def test_prediction_compares_only_model_and_preprocessing(run):
    elsewhere = {'test_dataloader.dataset.ann_file': 'x.csv'}
    with pytest.raises(ValueError, match=r'test_dataloader\.dataset\.ann_file'):
        load_run(DEMO, run, {**OPTION, **elsewhere})
    load_run(DEMO, run, {**OPTION, **elsewhere}, only_prediction=True)
    own, other = load_config(run), load_config(run)
    other.test_dataloader.dataset.pipeline[0].new = 1
    assert list(evaluation_changes(own, other, only_prediction=True)) == [
        'test_dataloader.dataset.pipeline.0.new'
    ]


@pytest.mark.parametrize(
    'use',
    [
        lambda run, _: load(DEMO, run),
        lambda run, _: load(load_config(DEMO), run),
        lambda run, _: load_trained(load_config(DEMO), run),
        lambda run, _: load_weights(
            type('Runner', (), dict(cfg=load_config(DEMO), model=torch.nn.Identity()))(), run
        ),
        lambda run, out: publish(load_config(DEMO), run, out),
    ],
)
def test_functions_refuse_other_settings(run, tmp_path, use):
    with pytest.raises(ValueError, match='--use-config'):
        use(run, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_config_of_a_run_is_found(tmp_path):
    assert recorded_config(tmp_path) is None
    (tmp_path / 'a.py').touch()
    assert recorded_config(tmp_path) == tmp_path / 'a.py'
    (tmp_path / 'b.py').touch()
    assert recorded_config(tmp_path) is None
    for text, expected in (
        (json.dumps(dict(config='b.py')), tmp_path / 'b.py'),
        (json.dumps(dict(config='../c.py')), None),
        ('{', None),
        ('[]', None),
    ):
        (tmp_path / 'identity.json').write_text(text)
        assert recorded_config(tmp_path) == expected


def test_frozen_teacher_may_be_moved():
    texts = [
        dict(model=dict(teacher_checkpoint=path, init_cfg=dict(type='Pretrained', checkpoint=path)))
        for path in ('a.pth', 'b.pth')
    ]
    assert evaluation_changes(*map(Config, texts)) == {}
