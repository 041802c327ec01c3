"""Changed configs: options, dumped files, custom configs that inherit."""

import shutil
from pathlib import Path

import pytest

from mmkdml.apis import load_config

CONFIGS = Path(__file__).parents[2] / 'configs'
ALL = sorted(str(path.relative_to(CONFIGS).with_suffix('')) for path in CONFIGS.glob('[!_]*/*.py'))
# Covers every mode, data set, student and base; formatting a dump takes half a second.
SOME = [
    'ml/r50_r18x2_v1_pcam',
    'kd_off/r50_mbv1x2_v2_lgg',
    'kd_on/r50_mbv1x2_v3_pcam',
    'kdml/r50_r18x2_v3_lgg',
    'kdml/r50_r18x2_v3_lgg_slices',
    'kdml/r50_r18x2_v3_ham10000_cls',
    'baselines/r50_ham10000_seg',
    'baselines/r50_lgg',
    'demo/kdml_v3_demo',
]


def load(name):
    return load_config(CONFIGS / f'{name}.py')


def containers(value):
    children = value.values() if isinstance(value, dict) else value
    for child in children:
        if isinstance(child, (dict, list)):
            yield child
        if isinstance(child, (dict, list, tuple)):
            yield from containers(child)


@pytest.mark.parametrize('name', ALL)
def test_config_containers_are_not_shared(name):
    found = list(containers(load(name)._cfg_dict))
    assert len(found) > 30
    assert len({id(container) for container in found}) == len(found)


def differences(before, after, path=''):
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [(key, before.get(key), after.get(key)) for key in {**before, **after}]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        keys = list(zip(range(len(before)), before, after, strict=True))
    else:
        return set() if before == after else {path[1:]}
    return set().union(*(differences(old, new, f'{path}.{key}') for key, old, new in keys))


@pytest.mark.parametrize(
    'options',
    [
        {'model.students.0.backbone.init_cfg': None},
        {'model.students.1.decode_head.loss_decode.focusing': 1.0},
        {'model.teacher.backbone.depth': 101},
        {'model.weights.gamma': (0.2, 0.3), 'model.kl_scale': 'temperature_squared'},
        {'train_dataloader.dataset.pipeline.2.scale': (96, 96), 'train_cfg.max_epochs': 3},
        {'val_evaluator.metric.empty': 'perfect', 'optim_wrapper.optimizer.lr': 0.01},
    ],
)
def test_options_change_only_the_named_settings(options):
    before = load('kdml/r50_r18x2_v3_lgg').to_dict()
    after = load_config(CONFIGS / 'kdml/r50_r18x2_v3_lgg.py', options).to_dict()
    assert differences(before, after) == set(options)


@pytest.mark.parametrize('name', SOME)
def test_dumped_config_equals_original(name, tmp_path):
    config = load(name)
    config.dump(tmp_path / 'dumped.py')
    assert load_config(tmp_path / 'dumped.py').to_dict() == config.to_dict()


CUSTOM = """
from mmengine.config import read_base

with read_base():
    from {base}.kdml.r50_r18x2_v3_lgg import *

train_dataloader['dataset'].update(data_root='lesions', ann_file='splits/train.csv')
val_dataloader['dataset'].update(data_root='lesions', ann_file='splits/val.csv')
test_dataloader['dataset'].update(data_root='lesions', ann_file='splits/test.csv')
model['students'][1].update(test_cfg=dict(mode='slide', crop_size=(256, 256), stride=(128, 128)))
model['weights'].update(alpha=(0.2, 0.2))
"""


@pytest.mark.parametrize(
    ('folder', 'base'),
    [
        ('clone/configs/own', '.'),
        ('own', '..clone.configs'),  # folders as in a package, without __init__
        ('own', '.base'),  # own/base is a link to the clone's configs
    ],
)
def test_config_for_custom_data_inherits_any_config(folder, base, tmp_path):
    shutil.copytree(CONFIGS, tmp_path / 'clone' / 'configs')
    own = tmp_path / folder / 'lesions.py'
    own.parent.mkdir(exist_ok=True)
    (own.parent / 'base').symlink_to(CONFIGS)
    own.write_text(CUSTOM.format(base=base))
    before, after = load('kdml/r50_r18x2_v3_lgg'), load_config(own)
    assert after.work_dir == 'work_dirs/own/lesions'
    assert differences(before.to_dict(), after.to_dict()) == {
        'work_dir',
        'model.weights.alpha',
        *(f'model.students.1.test_cfg.{key}' for key in ('mode', 'crop_size', 'stride')),
        *(
            f'{part}_dataloader.dataset.{key}'
            for part in ('train', 'val', 'test')
            for key in ('data_root', 'ann_file')
        ),
    }
