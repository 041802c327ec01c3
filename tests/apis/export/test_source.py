from pathlib import Path

import pytest
import torch

from mmkdml.apis import load_config
from mmkdml.apis.export.source import load_source
from mmkdml.inspection import inspect_config
from mmkdml.models.ensembles import max_ensemble, union_ensemble

CONFIGS = Path(__file__).parents[3] / 'configs'


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Return the demo config and a checkpoint of random weights."""
    torch.manual_seed(0)
    config = load_config(CONFIGS / 'demo' / 'kdml_v3_demo.py')
    state = inspect_config(config).distiller.state_dict()
    path = tmp_path_factory.mktemp('run') / 'best_x.pth'
    torch.save(dict(state_dict=state), path)
    return config, path, state


def test_ensemble_and_members_have_the_weights_of_the_checkpoint(run):
    config, path, state = run
    for what, names in (
        ('ensemble', ['student_1', 'student_2']),
        ('teacher', ['teacher']),
        ('student_2', ['student_2']),
    ):
        source = load_source(config, path.parent, what)
        assert source.name == f'kdml_v3_demo-{what}'
        assert source.checkpoint == path
        assert list(source.members) == names
        assert source.ensemble is (union_ensemble if what == 'ensemble' else max_ensemble)
        assert source.threshold == 0.5
        assert source.segments
        for name, member in source.members.items():
            assert not member.training
            for key, value in member.state_dict().items():
                assert torch.equal(value, state[f'members.{name}.{key}'])


def test_input_size_and_classes(run, tmp_path):
    config, path, state = run
    plain = load_source(config, path, 'student_1')
    assert (plain.inspection.input_size, plain.meta) == ((64, 64), {})
    known = dict(classes=('a', 'b'), palette=None, other=1)
    for number, (content, expected) in enumerate(
        [
            (dict(state_dict=state, meta=dict(dataset_meta=known)), dict(classes=('a', 'b'))),
            (dict(state_dict=state, meta=dict(dataset_meta=None)), {}),
        ]
    ):
        torch.save(content, tmp_path / f'{number}.pth')
        source = load_source(config, tmp_path / f'{number}.pth', 'student_1', [32, 96])
        assert (source.inspection.input_size, source.meta) == ((32, 96), expected)


def test_frozen_teacher_is_loaded_from_its_own_file(run, tmp_path):
    _, path, state = run
    prefix = 'members.teacher.'
    own = {k.removeprefix(prefix): v + 1 for k, v in state.items() if k.startswith(prefix)}
    torch.save(own, tmp_path / 'teacher.pth')
    demo = CONFIGS / 'demo' / 'kdml_v3_demo.py'
    options = {'model.mode': 'kd_off', 'model.weights': dict(gamma=None)}
    config = load_config(
        demo, options | {'model.teacher_checkpoint': str(tmp_path / 'teacher.pth')}
    )
    teacher = load_source(config, path, 'teacher').members['teacher']
    assert all(torch.equal(value, own[key]) for key, value in teacher.state_dict().items())
    with pytest.raises(
        ValueError, match='no checkpoint of the frozen teacher.*teacher_checkpoint=FILE'
    ):
        load_source(load_config(demo, options), path, 'teacher')


def test_unsupported_exports_raise(run, tmp_path):
    config, path, state = run
    with pytest.raises(
        ValueError, match="Nothing named 'x' .*: expected teacher, student_1, .*ensemble"
    ):
        load_source(config, path, 'x')
    with pytest.raises(FileNotFoundError, match='There is no checkpoint at nowhere'):
        load_source(config, 'nowhere', 'ensemble')
    with pytest.raises(
        ValueError, match='nms: expected a detector, got segmentation. Remove --nms'
    ):
        load_source(config, path, 'student_1', nms=True)
    sliding = dict(mode='slide', crop_size=(32, 32), stride=(16, 16))
    changed = load_config(CONFIGS / 'demo' / 'kdml_v3_demo.py', {'model.teacher.test_cfg': sliding})
    with pytest.raises(ValueError, match='teacher: sliding-window inference is not supported'):
        load_source(changed, path, 'teacher')
    binary = load_config(
        CONFIGS / 'demo' / 'student_demo_slices.py',
        {
            'model.head': dict(
                _delete_=True,
                type='mmkdml.models.BinaryLinearClsHead',
                in_channels=96,
                threshold=0.3,
            )
        },
    )
    torch.save(inspect_config(binary).members['model'].state_dict(), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='model: expected threshold=0.5 for export, got 0.3'):
        load_source(binary, tmp_path / 'x.pth', 'model')
