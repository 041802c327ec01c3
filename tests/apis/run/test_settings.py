import hashlib
import json
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.optim import OptimWrapper

from mmkdml.apis import load_config
from mmkdml.apis.run.settings import (
    NOT_SET,
    TRAINING_PARTS,
    all_schedules,
    changed_settings,
    deciding_settings,
    only_extends,
    settings_difference,
)
from mmkdml.models import Transfer

DEMO = Path(__file__).parents[3] / 'configs' / 'demo' / 'kdml_v3_demo.py'


def loader(**dataset):
    return dict(train_dataloader=dict(batch_size=2, dataset=dict(type='Any', **dataset)))


def data(**dataset):
    return deciding_settings(Config(loader(**dataset)))['data']


def test_config_equals_the_one_dumped_by_its_run(tmp_path):
    config = load_config(DEMO)
    config.dump(tmp_path / 'left.py')
    settings = deciding_settings(config)
    assert settings == deciding_settings(load_config(tmp_path / 'left.py'))
    assert settings.keys() == {*TRAINING_PARTS, 'data'}
    assert settings == json.loads(json.dumps(settings))


@pytest.mark.parametrize(
    ('options', 'decides'),
    [
        ({'train_dataloader.num_workers': 3}, False),
        ({'val_dataloader.timeout': 3}, False),
        ({'train_dataloader.dataset.image_cache': dict(dir='x')}, False),
        ({'default_hooks.logger.interval': 3}, False),
        ({'default_hooks.checkpoint.interval': 3}, False),
        ({'custom_hooks': []}, True),
        ({'default_hooks.checkpoint.save_best': 'x'}, True),
        ({'default_hooks.non_finite.policy': 'skip'}, True),
        ({'model.style': 'v1'}, True),
        ({'model.weights.alpha': (0.2, 0.2)}, True),
        ({'optim_wrapper.optimizer.lr': 0.5}, True),
        ({'train_dataloader.batch_size': 3}, True),
        ({'train_dataloader.dataset.pipeline.2.scale': (32, 32)}, True),
        ({'randomness.seed': 5}, True),
        ({'launcher': 'slurm', 'log_level': 'ERROR', 'work_dir': 'x', 'resume': True}, False),
    ],
)
def test_only_deciding_settings_change(options, decides):
    changes = changed_settings(
        deciding_settings(load_config(DEMO)), deciding_settings(load_config(DEMO, options))
    )
    if 'custom_hooks' in options:  # of its three, only one does more than watch
        assert [key for key in changes if key.endswith('type')] == ['custom_hooks.0.type']
    assert bool(changes) is decides


def test_data_are_identified_by_their_split_file(tmp_path):
    for name, content in (('a', b'1\n'), ('b', b'2\n'), ('c', b'1\n')):
        (tmp_path / f'{name}.csv').write_bytes(content)
    digests = [data(ann_file=str(tmp_path / f'{name}.csv')) for name in 'abc']
    assert digests[0] == {'train': hashlib.sha256(b'1\n').hexdigest()}
    assert digests[0] == digests[2] != digests[1]
    (tmp_path / 'a.csv').write_bytes(b'2\n')
    assert data(ann_file=str(tmp_path / 'a.csv')) == digests[1]
    assert data(ann_file='a.csv', data_root=str(tmp_path)) == digests[1]  # as the frameworks do
    assert data(ann_file=str(tmp_path / 'nowhere.csv')) == {'train': None}


def test_data_are_identified_by_the_table_of_their_masks(tmp_path):
    """Other values of the masks are other data, with the same split file."""
    (tmp_path / 'train.csv').write_text('id,path,mask,group,label\n')
    digests = []
    for table in (None, dict(values=[0, 1]), dict(values=[1, 0]), dict(values=[0, 1], ignore=[2])):
        manifest = {'classes': ['a', 'b'], **({'mask_table': table} if table else {})}
        (tmp_path / 'splits.json').write_text(json.dumps(manifest))
        digests.append(data(ann_file=str(tmp_path / 'train.csv'))['train'])
    assert len({*digests}) == 4
    # Binary masks keep the identity of earlier versions.
    assert digests[0] == hashlib.sha256((tmp_path / 'train.csv').read_bytes()).hexdigest()


def test_data_without_split_files_are_identified_by_file_names(tmp_path):
    for name in ('img/b/2.png', 'img/a/1.png', 'mask/1.png'):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    found = dict(data_root=str(tmp_path), data_prefix=dict(img_path='img', seg_map_path='mask'))
    before = data(**found)
    assert before == data(**found) != {'train': None}
    (tmp_path / 'img' / 'a' / '1.png').rename(tmp_path / 'img' / 'a' / '3.png')
    assert data(**found)['train'] not in (None, before['train'])
    assert data(data_prefix='') == {'train': None}  # not the working directory's files
    assert data() == {}


def test_nested_data_sets_are_found(tmp_path):
    for name in 'ab':
        (tmp_path / name).write_text(name)
    parts = [dict(type='Any', ann_file=str(tmp_path / name)) for name in 'ab']
    joined = dict(type='ConcatDataset', datasets=parts)
    found = data(dataset=joined)
    assert found == {
        f'train.datasets.{place}': hashlib.sha256(name.encode()).hexdigest()
        for place, name in enumerate('ab')
    }


def test_objects_and_classes_are_stored_by_name():
    settings = deciding_settings(
        Config(dict(model=dict(type=OptimWrapper, path=Path('a/b'), other=object())))
    )
    assert settings['model'] == dict(
        type=f'{OptimWrapper.__module__}.OptimWrapper', path='a/b', other='builtins.object'
    )


def test_changes_are_listed_by_key():
    before = dict(model=dict(a=1, b=[1, 2], c={}), data=dict(train='x', val=None), old=1)
    after = dict(model=dict(a=1.0, b=[1, 3, 4], d=None), data=dict(train=None, val='y'), new=2)
    changes = changed_settings(before, after)
    assert changes == {
        'model.b.1': (2, 3),
        'model.b.2': (NOT_SET, 4),
        'model.c': ({}, NOT_SET),
        'model.d': (NOT_SET, None),
    }
    assert settings_difference(changes).splitlines() == [
        '  model.b.1: 2 -> 3',
        '  model.b.2: (not set) -> 4',
        '  model.c: {} -> (not set)',
        '  model.d: (not set) -> None',
    ]
    lines = settings_difference({str(key): (0, 1) for key in range(100)}).splitlines()
    assert (len(lines), lines[-1]) == (41, '  ... and 60 more')


LINEAR, STEPS = dict(type='LinearWeight'), dict(type='MultiStepWeight', milestones=[3])


@pytest.mark.parametrize(
    ('model', 'free'),
    [
        (dict(weight_schedules=dict(beta=STEPS)), True),
        (dict(weight_schedules=dict(beta=dict(LINEAR, end=5))), True),
        (dict(weight_schedules=dict(beta=dict(student_1=[STEPS, LINEAR]))), False),
        (dict(transfers=[dict(weight=0.5), dict(weight=dict(base=1, schedule=STEPS))]), True),
        (dict(transfers=[dict(weight=0.5), dict(weight=dict(base=1, schedule=[LINEAR]))]), False),
        (dict(transfers=[dict(weight=0.5, schedule=LINEAR)]), False),
        (dict(transfers=[Transfer('a', 'b', 'features', 0.5, schedule=LINEAR)]), False),
        (dict(transfers=[Transfer('a', 'b', 'features', 0.5)]), True),
    ],
)
def test_longer_training_changes_schedules_of_weights_without_an_end(model, free):
    config = Config(dict(model=model, param_scheduler=dict(type='LinearLR', end=5)))
    assert only_extends({'train_cfg.max_epochs': (5, 6)}, config) is free


def test_all_schedules_by_key():
    transfers = [dict(weight=1), dict(weight=dict(base=1, schedule=[STEPS, LINEAR]))]
    config = Config(
        dict(
            param_scheduler=[dict(type='LinearLR')],
            model=dict(weight_schedules=dict(beta=dict(student_2=STEPS)), transfers=transfers),
        )
    )
    assert {key: one['type'] for key, one in all_schedules(config)} == {
        'param_scheduler.0': 'LinearLR',
        'model.weight_schedules.beta.student_2': 'MultiStepWeight',
        'model.transfers.1.weight.schedule.0': 'MultiStepWeight',
        'model.transfers.1.weight.schedule.1': 'LinearWeight',
    }
