"""Configs of detectors: names against contents, and steps with smaller backbones."""

import copy
import re
from itertools import product
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmdet')
from mmdet.models import ATSS, FPN, ATSSHead, ResNet

from mmkdml.apis.run.config import load_config
from mmkdml.datasets import BCCDDataset
from mmkdml.evaluation import BoxAP
from mmkdml.models import (
    ChannelWiseLoss,
    DiversifiedKDMLDistiller,
    FGDLoss,
    KnowledgeDistiller,
    MGDLoss,
    PKDLoss,
)
from mmkdml.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
DATASETS = {'bccd': 3, 'ham10000_det': 1}
MODES = ('ml', 'kd_off', 'kd_on', 'kdml')
CLASSROOMS = [
    f'{mode}/r50_r18x2_{style}_{data}'
    for mode, style, data in product(MODES, ('v1', 'v2', 'v3'), DATASETS)
]
LEVELS = [f'neck.fpn_convs.{level}' for level in range(5)]
# Weight, loss, its settings, and the taps of each transfer.
METHODS = {
    'kd': [(1, None, {}, None)],
    'fgd': [(1, FGDLoss, {}, LEVELS)],
    'pkd': [(10, PKDLoss, {}, LEVELS[:4])],
    'cwd': [(10, ChannelWiseLoss, dict(temperature=1), level) for level in LEVELS],
    'mgd': [(2e-5, MGDLoss, dict(masked='pixels', ratio=0.65), level) for level in LEVELS],
}
SIZE = (160, 128)  # the coarsest level of the neck has a stride of 128
BASELINES = [f'baselines/r{depth}_{data}' for depth, data in product((18, 50), DATASETS)]


def load(name):
    return load_config(CONFIGS / f'{name}.py')


def check_network(member, depth, classes):
    assert member['type'] is ATSS
    backbone, neck, head = member['backbone'], member['neck'], member['bbox_head']
    assert (backbone['type'], backbone['depth']) == (ResNet, depth)
    assert backbone['init_cfg']['checkpoint'] == f'torchvision://resnet{depth}'
    assert neck['type'] is FPN
    assert neck['in_channels'] == [64 * 2**i * (4 if depth == 50 else 1) for i in range(4)]
    assert (head['type'], head['num_classes']) == (ATSSHead, classes)
    # As mmpretrain reads images: to RGB, with the statistics of ImageNet.
    assert member['data_preprocessor']['bgr_to_rgb'] is True
    assert member['data_preprocessor']['mean'] == [123.675, 116.28, 103.53]


def test_each_config_of_a_detector_is_tested():
    pattern = re.compile(r'.*_(bccd|ham10000_det)\.py')
    folders = ('baselines', 'ml', 'kd_off', 'kd_on', 'kdml')
    found = {
        f'{folder}/{path.stem}'
        for folder in folders
        for path in (CONFIGS / folder).iterdir()
        if pattern.fullmatch(path.name)
    }
    assert found == {*CLASSROOMS, *BASELINES}


@pytest.mark.parametrize('name', CLASSROOMS)
def test_names_match_classrooms(name):
    config = load(name)
    mode, style, data = re.fullmatch(r'(\w+)/r50_r18x2_(v\d)_(\w+)', name).groups()
    model = config['model']
    assert model['type'] is DiversifiedKDMLDistiller
    assert (model['mode'], model['style']) == (mode, style)
    check_network(model['teacher'], 50, DATASETS[data])
    for student in model['students']:
        check_network(student, 18, DATASETS[data])
    checkpoint = f'work_dirs/baselines/r50_{data}' if mode == 'kd_off' else None
    assert model.get('teacher_checkpoint') == checkpoint
    assert all(
        sum(pair) == pytest.approx(1) for pair in zip(*model['weights'].values(), strict=True)
    )
    folder = {'bccd': 'data/bccd/splits', 'ham10000_det': 'data/ham10000/splits_det'}[data]
    for part in ('train', 'val', 'test'):
        assert config[f'{part}_dataloader']['dataset']['ann_file'] == f'{folder}/{part}.csv'
    assert config['val_evaluator']['metric']['type'] is BoxAP
    assert config['default_hooks']['checkpoint']['save_best'] == 'ensemble/coco/bbox_mAP'


@pytest.mark.parametrize('name', BASELINES)
def test_names_match_baselines(name):
    config = load(name)
    depth, data = re.fullmatch(r'baselines/r(\d+)_(\w+)', name).groups()
    check_network(config['model'], int(depth), DATASETS[data])
    assert config['default_hooks']['checkpoint']['save_best'] == 'model/coco/bbox_mAP'


def test_classes_of_the_network_are_those_of_the_data():
    assert len(BCCDDataset.METAINFO['classes']) == DATASETS['bccd']


@pytest.mark.parametrize('method', METHODS)
def test_compared_methods(method):
    model = load(f'comparisons/{method}_r50_r18_bccd')['model']
    assert model['type'] is KnowledgeDistiller
    check_network(model['members']['teacher'], 50, 3)
    check_network(model['members']['student'], 18, 3)
    assert model['frozen'].to_dict() == dict(teacher='work_dirs/baselines/r50_bccd')
    rows = []
    for transfer in model['transfers']:
        loss = dict(transfer.get('loss') or dict(type=None))
        assert transfer['knowledge'] == ('predictions' if method == 'kd' else 'features')
        assert transfer.get('source_tap') == transfer.get('learner_tap')
        rows.append((transfer['weight'], loss.pop('type'), loss, transfer.get('source_tap')))
    assert rows == METHODS[method]


def test_all_comparisons_of_detectors_are_tested():
    found = {path.stem for path in (CONFIGS / 'comparisons').glob('*_bccd.py')}
    assert found == {f'{method}_r50_r18_bccd' for method in METHODS}


def shrink(member):
    member['backbone'].update(base_channels=4, stem_channels=4, init_cfg=None)
    scale = 4 if member['backbone']['depth'] == 50 else 1
    member['neck'].update(in_channels=[4 * scale * 2**i for i in range(4)], out_channels=32)
    member['bbox_head'].update(in_channels=32, feat_channels=32, stacked_convs=1)


def check_step(model):
    """Build a classroom, and check that a step trains all of its parameters."""
    distiller = MODELS.build({**model, 'input_size': SIZE})
    distiller.train()
    samples = distiller.task.dummy_samples(2, SIZE)
    total, log = distiller.parse_losses(distiller.loss(torch.randn(2, 3, *SIZE), samples))
    total.backward()
    assert torch.isfinite(total)
    unused = [key for key, x in distiller.named_parameters() if x.requires_grad and x.grad is None]
    assert unused == []
    return sum('.loss_from_' in key for key in log)


@pytest.mark.parametrize(
    ('name', 'terms'), [('kdml/r50_r18x2_v3_bccd', 4), ('ml/r50_r18x2_v1_ham10000_det', 2)]
)
def test_a_step_with_smaller_backbones(name, terms):
    model = copy.deepcopy(load(name)['model'])
    for member in [model.get('teacher'), *model['students']]:
        if member is not None:
            shrink(member)
    assert check_step(model) == terms


@pytest.mark.parametrize('method', METHODS)
def test_a_step_of_compared_methods(method):
    model = copy.deepcopy(load(f'comparisons/{method}_r50_r18_bccd')['model'])
    shrink(model['members']['teacher'])
    shrink(model['members']['student'])
    model.pop('frozen')  # needs a checkpoint
    assert check_step(model) == len(METHODS[method])


@pytest.mark.parametrize(
    ('name', 'terms'),
    [
        ('study/bccd192', 4),
        ('study/bccd192_students_alone', 0),
        ('study/bccd192_kdml_v1_x3', 3 + 6),
        ('study/bccd192_kdml_v1_x4', 4 + 12),
        ('demo/kdml_v1_demo_det', 4),
    ],
)
def test_a_step_of_small_classrooms(name, terms):
    assert check_step(copy.deepcopy(load(name)['model'])) == terms


@pytest.mark.parametrize('name', ['teacher', 'student'])
def test_baselines_of_the_study_are_its_members(name):
    members = load('study/bccd192')['model']
    alone = load(f'study/bccd192_{name}')['model']
    own = members['teacher'] if name == 'teacher' else members['students'][0]
    assert {**own, 'data_preprocessor': alone['data_preprocessor']} == alone
