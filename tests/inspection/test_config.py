import copy
import socket
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.model import PretrainedInit

from mmkdml.inspection import inspect_config, without_pretrained

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.mark.parametrize('name', ['kdml/r50_mbv1x2_v3_lgg', 'baselines/mbv1_pcam'])
def test_inspection_does_not_use_the_network(name, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('the network was used')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', refuse)
    inspection = inspect_config(Config.fromfile(CONFIGS / f'{name}.py'))
    if name.startswith('baselines'):
        assert list(inspection.members) == ['model']
        assert inspection.distiller is None
        assert inspection.input_size == (224, 224)
    else:
        assert list(inspection.members) == ['teacher', 'student_1', 'student_2']
        assert inspection.input_size == (256, 256)


def test_missing_teacher_checkpoint_is_recorded_silently(capfd):
    config = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py')
    config.model.update(
        mode='kd_off', weights=dict(beta=(0.3, 0.3), gamma=None), teacher_checkpoint='nowhere.pth'
    )
    before = copy.deepcopy(config.model.to_dict())
    inspection = inspect_config(config)
    assert inspection.checkpoints == {'teacher': 'nowhere.pth'}
    assert inspection.distiller.frozen_names == ('teacher',)
    assert config.model.to_dict() == before
    assert capfd.readouterr() == ('', '')
    # Later warnings are logged again.
    record = MMLogger.get_current_instance().makeRecord('', 30, '', 0, 'still here', (), None)
    assert MMLogger.get_current_instance().filter(record)


def test_frozen_members_of_any_classroom():
    config = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py')
    student, teacher = config.model.students[0], config.model.teacher
    config.model = dict(
        type='mmkdml.KnowledgeDistiller',
        members=dict(a=student, b=teacher, c=teacher),
        transfers=[dict(source='b', learner='a', knowledge='predictions', weight=1.0)],
        frozen=dict(b='nowhere.pth', c=None),
        input_size=(32, 32),
    )
    inspection = inspect_config(config)
    assert inspection.checkpoints == {'b': 'nowhere.pth'}
    assert inspection.distiller.frozen_names == ('b', 'c')


def test_other_models_raise():
    with pytest.raises(TypeError, match='one of ImageClassifier, TimmClassifier, EncoderDecoder'):
        inspect_config(Config(dict(model=dict(type='mmpretrain.ResNet', depth=18))))


def test_without_pretrained_removes_only_pretrained_weights():
    pretrained = dict(type='Pretrained', checkpoint='x')
    kaiming = dict(type='Kaiming', layer='Conv')
    config = dict(
        pretrained=True,
        depth=18,
        init_cfg=pretrained,
        students=[
            dict(init_cfg=[pretrained, kaiming], checkpoint_path='x'),
            dict(init_cfg=dict(type=PretrainedInit, checkpoint='x')),
            dict(init_cfg=kaiming),
        ],
        sizes=(64, 64),
    )
    before = copy.deepcopy(config)
    assert without_pretrained(config) == dict(
        depth=18, students=[dict(init_cfg=[kaiming]), {}, dict(init_cfg=kaiming)], sizes=(64, 64)
    )
    assert config == before
