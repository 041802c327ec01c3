"""Configs of the compared methods: names, networks, transfers and data.

The expected weights and layers are copied from DefangChen/SimKD (classification), winycg/CIRKD and
EagleMIT/EMKD (segmentation); those of the recent methods from their own code: mdistiller,
hunto/DIST_KD, sunshangquan/logit-standardization-KD, yzd-v/MGD and mmrazor.
"""

import re
from pathlib import Path

import pytest
from mmpretrain.models import GlobalAveragePooling
from torch.optim import Adam

from mmkdml.apis import load_config
from mmkdml.engine import DiscriminatorOptimWrapperConstructor
from mmkdml.models import (
    AttentionTransferLoss,
    CategorySimilarityLoss,
    ChannelWiseLoss,
    ConvBlockNeck,
    ConvReg,
    DISTLoss,
    DKDLoss,
    FeatureMSELoss,
    FitNetLoss,
    FocalDiceLoss,
    FocalSmoothDiceLoss,
    HolisticLoss,
    ImportanceMapLoss,
    IntraClassVariationLoss,
    KnowledgeDistiller,
    LinearProjector,
    LSKDLoss,
    MGDLoss,
    PairWiseLoss,
    PixelSimilarityLoss,
    PixelWiseLoss,
    PKDLoss,
    PredictionKLLoss,
    RegionAffinityLoss,
    SemCKDLoss,
    SimilarityPreservingLoss,
    SimKDLoss,
    SimKDNeck,
    SRRLLoss,
    VariationalInformationLoss,
)

CONFIGS = Path(__file__).parents[2] / 'configs'
P, F = 'predictions', 'features'

STAGES = ['backbone.layer1', 'backbone.layer2', 'backbone.layer3', 'backbone.layer4']
ALL_STAGES = (
    [*STAGES[:3], 'neck.conv_block'],
    STAGES,
)  # the last stage of the teacher ends with its block
FIRST_STAGE = (STAGES[0], STAGES[0])
BEFORE_CLASSIFIER = ('decode_head.blocks.4',) * 2
STRIDE_8 = ('decode_head.blocks.1',) * 2
DSD_MAPS = (['decode_head.blocks.2', 'decode_head.blocks.4', 'decode_head.conv_seg'],) * 2
LOW_AND_HIGH = (['backbone.relu', 'backbone.layer2'],) * 2
DEFAULT = (None, None)

SOFTENED = dict(temperature=4.0, direction='source||learner', scale='temperature_squared')
KD_CLS = (P, 1, PredictionKLLoss, DEFAULT, None, SOFTENED)
KD_SEG = (P, 1, PixelWiseLoss, DEFAULT, None, {})
HOLISTIC = (P, 0.001, HolisticLoss, DEFAULT, None, dict(kind='hinge', discriminator_weight=0.1))
# Knowledge, weight, loss, taps of teacher and student, projector, options of the loss.
CLASSIFICATION = {
    'kd': [KD_CLS],
    'fitnet': [KD_CLS, (F, 100, FitNetLoss, FIRST_STAGE, ConvReg, {})],
    'at': [KD_CLS, (F, 1000, AttentionTransferLoss, ALL_STAGES, None, {})],
    'sp': [KD_CLS, (F, 3000, SimilarityPreservingLoss, DEFAULT, None, {})],
    'vid': [KD_CLS, (F, 1, VariationalInformationLoss, ALL_STAGES, None, {})],
    'srrl': [KD_CLS, (F, 1, SRRLLoss, DEFAULT, None, {})],
    'semckd': [KD_CLS, (F, 400, SemCKDLoss, ALL_STAGES, None, dict(batch_size=8))],
    'simkd': [(F, 1, SimKDLoss, DEFAULT, None, {})],
}
SEGMENTATION = {
    'kd': [KD_SEG],
    'fitnet': [KD_SEG, (F, 10, FeatureMSELoss, BEFORE_CLASSIFIER, LinearProjector, {})],
    'at': [KD_SEG, (F, 10000, AttentionTransferLoss, BEFORE_CLASSIFIER, None, {})],
    'skd': [KD_SEG, (F, 10, PairWiseLoss, STRIDE_8, None, {})],
    'ifvd': [KD_SEG, (F, 20, IntraClassVariationLoss, BEFORE_CLASSIFIER, None, {})],
    'cwd': [
        KD_SEG,
        (F, 50, ChannelWiseLoss, BEFORE_CLASSIFIER, None, {}),
        (P, 3, ChannelWiseLoss, DEFAULT, None, {}),
    ],
    'dsd': [
        (F, 1000, PixelSimilarityLoss, DSD_MAPS, None, {}),
        (P, 10, CategorySimilarityLoss, DEFAULT, None, {}),
    ],
    'emkd': [
        (P, 0.1, PredictionKLLoss, DEFAULT, None, SOFTENED),
        (F, 0.9, ImportanceMapLoss, LOW_AND_HIGH, None, {}),
        (F, 0.9, RegionAffinityLoss, LOW_AND_HIGH, None, {}),
    ],
}
# Without plain distillation, as in the code of each.
RELATIONS = dict(beta=1.0, gamma=1.0, temperature=1.0)
DECODER = [f'decode_head.blocks.{block}' for block in range(5)]
LAST_STAGE = 'backbone.layer4'
RECENT_CLASSIFICATION = {
    'dist': [(P, 2, DISTLoss, DEFAULT, None, RELATIONS)],
    'mgd': [(F, 7e-5, MGDLoss, DEFAULT, None, dict(masked='channels', ratio=0.15))],
    'pkd': [(F, 10, PKDLoss, DEFAULT, None, {})],
}
DECOUPLED = dict(alpha=1.0, beta=8.0, temperature=4.0)
INNER = {
    'lskd': dict(SOFTENED, type=PredictionKLLoss, temperature=2.0),
    'lskd_dkd': dict(DECOUPLED, type=DKDLoss, temperature=2.0),
}
# Methods that need three classes.
RECENT_MULTI_CLASS = {
    **RECENT_CLASSIFICATION,
    'dkd': [(P, 1, DKDLoss, DEFAULT, None, DECOUPLED)],
    **{name: [(P, 9, LSKDLoss, DEFAULT, None, dict(loss=loss))] for name, loss in INNER.items()},
}
RECENT_SEGMENTATION = {
    'dist': [(P, 1, DISTLoss, DEFAULT, None, RELATIONS)],
    'mgd': [
        (P, 3, ChannelWiseLoss, DEFAULT, None, {}),
        (F, 2e-5, MGDLoss, (LAST_STAGE,) * 2, None, dict(masked='pixels', ratio=0.75)),
    ],
    'pkd': [(F, 10, PKDLoss, (DECODER, DECODER), None, {})],
}
TABLES = {
    'pcam': {**CLASSIFICATION, **RECENT_CLASSIFICATION},
    'ham10000_cls': {**CLASSIFICATION, **RECENT_MULTI_CLASS},
    'lgg': {**SEGMENTATION, **RECENT_SEGMENTATION},
    'ham10000_seg': {**SEGMENTATION, **RECENT_SEGMENTATION},
}
SIZES = {'lgg': (256, 256)}
COMPARED = {
    f'{method}_r50_r18_{dataset}': (dataset, method, rows)
    for dataset, table in TABLES.items()
    for method, rows in table.items()
}
ADVERSARIAL = {
    f'{method}_adversarial_r50_r18_lgg': ('lgg', method, [*SEGMENTATION[method], HOLISTIC])
    for method in ('skd', 'ifvd', 'cwd')
}
MIXED = ['kdml_sp_at_r50_r18x2_pcam', 'ml_at_cwd_r18x2_lgg']
TAUGHT = {**COMPARED, **ADVERSARIAL}


def load(name, folder='comparisons'):
    return load_config(CONFIGS / folder / f'{name}.py')


def as_row(transfer):
    """Return a transfer as a row of the tables above."""
    loss = transfer['loss']
    options = {key: loss[key] for key in loss if key != 'type'}
    projector = (transfer.get('projector') or {}).get('type')
    if projector is LinearProjector:
        assert transfer['projector']['bias'] is False
    taps = tuple(
        list(tap) if isinstance(tap, (list, tuple)) else tap
        for tap in (transfer.get('source_tap'), transfer.get('learner_tap'))
    )
    return transfer['knowledge'], transfer['weight'], loss['type'], taps, projector, options


def test_config_files_match_expected_names():
    names = {path.stem for path in (CONFIGS / 'comparisons').glob('*.py')}
    found = {name for name in names if not name.endswith('_bccd')}  # test_detection_configs.py
    assert found == {*TAUGHT, *MIXED}
    assert len(found) == 4 * 8 + 3 + 2 + 3 * 3 + 6


@pytest.mark.parametrize('name', TAUGHT)
def test_comparison_config_is_short_and_names_its_method(name):
    lines = (CONFIGS / 'comparisons' / f'{name}.py').read_text().splitlines()
    assert len(lines) <= 15
    names = {'lskd_dkd': 'LSKD and DKD', 'simkd': 'SimKD', 'semckd': 'SemCKD', 'fitnet': 'FitNet'}
    method = TAUGHT[name][1]
    assert lines[0].startswith(('"""' + names.get(method, method.upper()), '"""Plain'))
    assert 'ResNet50 teaches a ResNet18, on ' in lines[0]


@pytest.mark.parametrize('name', TAUGHT)
def test_transfers_have_expected_weights_and_taps(name):
    dataset, method, rows = TAUGHT[name]
    model = load(name).model
    assert model['type'] is KnowledgeDistiller
    assert list(model['members']) == ['teacher', 'student']
    sides = {(row['source'], row['learner']) for row in model['transfers']}
    assert sides == {('teacher', 'student')}
    assert [as_row(row) for row in model['transfers']] == rows
    assert tuple(model['input_size']) == SIZES.get(dataset, (224, 224))
    # Cross-entropy has weight 1 except for SimKD.
    assert model.get('supervised_weights') == (dict(student=0.0) if method == 'simkd' else None)
    assert model.get('reused_classifiers') == (
        dict(student='teacher') if method == 'simkd' else None
    )


@pytest.mark.parametrize('name', TAUGHT)
def test_networks_and_teacher_checkpoint_match_baselines(name):
    dataset, method, _ = TAUGHT[name]
    config = load(name)
    teacher, student = config.model['members']['teacher'], config.model['members']['student']
    folder = f'r50_{dataset}'
    assert config.model['frozen'] == dict(teacher=f'work_dirs/baselines/{folder}')
    baseline = load(folder, 'baselines')
    assert teacher.to_dict() == baseline.model.to_dict()
    assert config.train_dataloader.to_dict() == baseline.train_dataloader.to_dict()
    baseline = load(f'r18_{dataset}', 'baselines').model
    if method == 'simkd':
        neck = student['neck']
        assert (neck['type'], neck['in_channels'], neck['out_channels']) == (SimKDNeck, 512, 512)
        assert baseline.pop('neck')['type'] is GlobalAveragePooling
        student.pop('neck')
        assert student['head'].to_dict() == teacher['head'].to_dict()
        assert teacher['neck']['type'] is ConvBlockNeck
    if method == 'emkd':  # EMKD has its own supervised loss
        assert student['decode_head'].pop('loss_decode')['type'] is FocalSmoothDiceLoss
        assert baseline['decode_head'].pop('loss_decode')['type'] is FocalDiceLoss
    assert student.to_dict() == baseline.to_dict()


@pytest.mark.parametrize('name', TAUGHT)
def test_data_and_schedule_match_our_method(name):
    config, ours = load(name), load(f'r50_r18x2_v1_{TAUGHT[name][0]}', 'kd_off')
    for key in ours:
        if key.endswith(('dataloader', 'evaluator', 'cfg', 'scheduler')):
            assert config[key] == ours[key], key
    wrapper = config.optim_wrapper
    if name in ADVERSARIAL:
        assert wrapper.pop('constructor') is DiscriminatorOptimWrapperConstructor
        own = wrapper.pop('discriminator_optimizer')
        assert (own['type'], own['lr'], tuple(own['betas'])) == (Adam, 4e-4, (0.9, 0.99))
    assert wrapper.to_dict() == ours.optim_wrapper.to_dict()


@pytest.mark.parametrize('name', TAUGHT)
def test_loss_batch_size_matches_data_loader(name):
    config = load(name)
    for row in config.model['transfers']:
        assert row['loss'].get('batch_size', 8) == config.train_dataloader['batch_size']


@pytest.mark.parametrize(
    ('name', 'members', 'rows'),
    [
        (
            MIXED[0],
            ['teacher', 'student_1', 'student_2'],
            {
                ('teacher', 'student_1'): (F, 3000, SimilarityPreservingLoss, DEFAULT, None, {}),
                ('student_2', 'student_1'): KD_CLS,
                ('teacher', 'student_2'): KD_CLS,
                ('student_1', 'student_2'): (
                    F,
                    1000,
                    AttentionTransferLoss,
                    (STAGES, STAGES),
                    None,
                    {},
                ),
            },
        ),
        (
            MIXED[1],
            ['student_1', 'student_2'],
            {
                ('student_2', 'student_1'): (F, 1000, AttentionTransferLoss, DEFAULT, None, {}),
                ('student_1', 'student_2'): (P, 3, ChannelWiseLoss, DEFAULT, None, {}),
            },
        ),
    ],
)
def test_configs_that_combine_two_methods(name, members, rows):
    model = load(name).model
    assert list(model['members']) == members
    assert 'frozen' not in model
    found = {(row['source'], row['learner']): as_row(row) for row in model['transfers']}
    assert found == rows
    assert len(model['transfers']) == len(rows)
    dataset = re.search(r'(pcam|lgg)$', name)[1]
    baseline = load(f'r18_{dataset}', 'baselines').model.to_dict()
    for student in members[-2:]:
        assert model['members'][student].to_dict() == baseline
