"""Pretrained weights of the configs, loaded from stand-ins of the published files."""

import re
from pathlib import Path

import pytest
import timm
import timm.models._builder as timm_builder
import torch
import torchvision
from mmengine.runner import checkpoint as mmengine_checkpoint

from mmkdml.apis import load_config
from mmkdml.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.mark.parametrize(
    'name',
    [
        'kdml/r50_r18x2_v3_lgg',
        pytest.param('kdml/r50_r18x2_v3_pcam', marks=pytest.mark.slow),
        pytest.param('kdml/r50_mbv1x2_v3_lgg', marks=pytest.mark.slow),
        'kdml/r50_mbv1x2_v3_pcam',
    ],
)
def test_pretrained_backbones_are_filled_completely(name, monkeypatch):
    """Files with the keys of torchvision or timm fill every weight of the backbones."""
    published = {}

    def torchvision_file(url, **kwargs):
        name = re.fullmatch(r'https://download\.pytorch\.org/models/(resnet\d+)-\w+\.pth', url)[1]
        if name not in published:
            published[name] = torchvision.models.get_model(name, weights=None).state_dict()
        return published[name]

    def timm_file(hub_id, *args, **kwargs):
        name = re.fullmatch(r'timm/(\w+)\..*', hub_id)[1]
        if name not in published:
            published[name] = timm.create_model(name, pretrained=False).state_dict()
        return published[name]

    monkeypatch.setattr(mmengine_checkpoint, 'load_from_http', torchvision_file)
    monkeypatch.setattr(timm_builder, 'load_state_dict_from_hf', timm_file)
    config = load_config(CONFIGS / f'{name}.py')
    config.model.input_size = (64, 64)
    model = MODELS.build(config.model)
    assert published == {}  # nothing is downloaded before training
    model.init_weights()
    student = 'resnet18' if 'r18' in name else 'mobilenetv1_100'
    assert set(published) == {'resnet50', student}
    sources = {'teacher': 'resnet50', 'student_1': student, 'student_2': student}
    for member, source in sources.items():
        backbone = model.members[member].backbone
        weights = getattr(backbone, 'timm_model', backbone).state_dict()
        left_over = set(published[source]) - set(weights)
        assert left_over == (
            {'fc.weight', 'fc.bias'}
            if source.startswith('resnet')
            else {'classifier.weight', 'classifier.bias'}
        )
        assert all(torch.equal(value, published[source][key]) for key, value in weights.items())
