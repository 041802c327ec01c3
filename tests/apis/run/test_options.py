"""Options of the first start of a run; the tests of ``tools/train.py`` train with them."""

import json
import math
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkdml.apis.run import options as run_options
from mmkdml.apis.run.options import StartOptions, training_config
from mmkdml.apis.run.settings import changed_settings, deciding_settings

DEMO = Path(__file__).parents[3] / 'configs' / 'demo' / 'kdml_v3_demo.py'
FIRST = StartOptions(
    {'train_cfg.max_epochs': 4, 'optim_wrapper.optimizer.betas': (0.5, 0.9)}, seed=3, fast=True
)


def start(folder, config, given):
    """Write what a training writes at its start."""
    folder.mkdir()
    config.dump(folder / Path(config.filename).name)
    identity = dict(id='x', config=Path(config.filename).name, start=given.record())
    (folder / 'identity.json').write_text(json.dumps(identity))


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / 'run'
    config, options, before = training_config(DEMO, FIRST, folder)
    assert (options, before) == (FIRST, StartOptions())
    start(folder, config, options)
    return folder


def difference(run, config):
    return changed_settings(
        deciding_settings(Config.fromfile(run / DEMO.name)), deciding_settings(config)
    )


@pytest.mark.parametrize('again', [StartOptions(), FIRST, StartOptions(fast=True)])
@pytest.mark.parametrize('by_folder', [False, True])
def test_options_of_the_first_start_are_used_again(run, again, by_folder):
    config, options, before = training_config(run if by_folder else DEMO, again, run, 'auto')
    assert options == before == FIRST
    assert difference(run, config) == {}
    assert (config.resume, config.load_from, config.work_dir) == (True, None, str(run))


@pytest.mark.parametrize('by_folder', [False, True])
def test_new_options_take_precedence(run, by_folder):
    new = StartOptions({'train_cfg.max_epochs': 6, 'train_cfg.val_interval': 2}, seed=4)
    config, options, before = training_config(run if by_folder else DEMO, new, run, 'auto')
    assert before == FIRST
    assert difference(run, config) == {
        'randomness.seed': (3, 4),
        'train_cfg.max_epochs': (4, 6),
        'train_cfg.val_interval': (1, 2),
    }
    assert options == StartOptions({**FIRST.options, **new.options}, seed=4, fast=True)


def test_a_group_of_options_replaces_its_parts():
    new = StartOptions({'train_cfg': dict(max_epochs=1), 'model.a': 1})
    first = StartOptions({'train_cfg.max_epochs': 4, 'model.ab': 2})
    assert first.updated(new).options == {'model.ab': 2, **new.options}


def test_edited_config_is_compared_as_it_is(run, tmp_path):
    edited = tmp_path / DEMO.name
    text = Config.fromfile(DEMO).pretty_text.replace("mode='kdml'", "mode='kd_on'")
    edited.write_text(text)
    config, *_ = training_config(edited, StartOptions(), run, 'auto')
    assert difference(run, config) == {'model.mode': ('kdml', 'kd_on')}
    own, *_ = training_config(run, StartOptions(), resume='auto')
    assert difference(run, own) == {}


def test_options_are_not_used_for_another_config_or_a_new_run(run, tmp_path):
    other = tmp_path / 'other.py'
    Config.fromfile(DEMO).dump(other)
    for path, resume in ((other, 'auto'), (DEMO, None)):
        config, options, _ = training_config(path, StartOptions(), run, resume)
        assert options == StartOptions()
        assert config.train_cfg.max_epochs != 4


def test_record_is_json_and_keeps_types(tmp_path):
    options = StartOptions(
        {'a': (1, 2), 'b': 'x y', 'c': None, 'd': [True], 'e': math.inf, 'work_dir': 'x'},
        cache_images='cache',
    )
    record = json.loads(json.dumps(options.record()))
    kept = {key: options.options[key] for key in 'abcd'}
    assert run_options._recorded(record) == StartOptions(kept, cache_images='cache')
    assert run_options._recorded([]) == StartOptions()
    assert str(StartOptions({'b': 'x y'}, seed=0, amp=True)) == (
        "--seed 0 --amp --cfg-options 'b=x y'"
    )
