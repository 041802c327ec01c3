"""Config files: names, networks, weights, data, optimizer and metrics."""

import csv
import re
from itertools import product
from pathlib import Path

import pytest
from albumentations import Affine, HorizontalFlip, Transpose, VerticalFlip
from mmcv.transforms import Resize
from mmengine.dataset import DefaultSampler
from mmengine.optim import OptimWrapper
from mmpretrain.evaluation import Accuracy, AveragePrecision, MultiLabelMetric
from mmpretrain.models import (
    CrossEntropyLoss,
    GlobalAveragePooling,
    ImageClassifier,
    LinearClsHead,
    MultiLabelLinearClsHead,
    ResNet,
)
from mmseg.models import EncoderDecoder
from torch.optim import Adam

from mmkdml.apis import load_config
from mmkdml.datasets import (
    AlbumentationsTransform,
    ChestXray14Dataset,
    HAM10000Dataset,
    HAM10000SegDataset,
    LGGDataset,
    LGGSliceDataset,
    LoadBinaryMask,
    PCamDataset,
)
from mmkdml.engine import (
    ConfusionHook,
    MemberTableHook,
    NonFiniteLossHook,
    PanelHook,
    ReliabilityHook,
)
from mmkdml.evaluation import (
    Calibration,
    ConfusionMatrix,
    Diversity,
    Fidelity,
    ForegroundIoU,
    MacroPrecisionRecall,
    MemberMetrics,
    MultiLabelAUROC,
)
from mmkdml.inspection.image_size import data_image_size
from mmkdml.models import (
    ConvBlockNeck,
    DiversifiedKDMLDistiller,
    FocalDiceLoss,
    PretrainedTIMMBackbone,
    StemResNet,
    UNetHead,
)

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / 'configs'
TABLE = ROOT / 'mmkdml' / 'experiments' / 'paper' / 'data' / 'reference_weights.csv'
REPEATED = ('Table 11', 'Table 12')  # other metrics of Tables 3 and 4

MODES, NETWORKS, STYLES = ('ml', 'kd_off', 'kd_on', 'kdml'), ('r18', 'mbv1'), ('v1', 'v2', 'v3')
HAM10000 = ('ham10000_cls', 'ham10000_seg')
SLICES = 'kdml/r50_r18x2_v3_lgg_slices'
CLASSROOMS = [
    *(
        f'{mode}/r50_{student}x2_{style}_{dataset}'
        for mode, student, style, dataset in product(MODES, NETWORKS, STYLES, ('pcam', 'lgg'))
    ),
    *(
        f'{mode}/r50_r18x2_{style}_{dataset}'
        for mode, style, dataset in product(MODES, STYLES, HAM10000)
    ),
    SLICES,
]
# Network and channels of the additional block.
BASELINES = {
    'r50_pcam': ('r50', 512),
    'r50_c1024_pcam': ('r50', 1024),
    'r50_noblock_pcam': ('r50', None),
    'r18_pcam': ('r18', None),
    'mbv1_pcam': ('mbv1', None),
    'r50_lgg': ('r50', None),
    'r18_lgg': ('r18', None),
    'mbv1_lgg': ('mbv1', None),
    'r50_ham10000_cls': ('r50', 512),
    'r18_ham10000_cls': ('r18', None),
    'r50_ham10000_seg': ('r50', None),
    'r18_ham10000_seg': ('r18', None),
}
DEMO = 'demo/kdml_v3_demo'
NIH = 'kdml/r50_r18x2_v3_nih'  # not in the paper
ALL = [*CLASSROOMS, *(f'baselines/{name}' for name in BASELINES)]
COMPARISONS = sorted(
    f'comparisons/{path.stem}'
    for path in (CONFIGS / 'comparisons').glob('*.py')
    if not path.stem.endswith('_bccd')  # see test_detection_configs.py
)
DETECTORS = re.compile(r'.*_(bccd|ham10000_det)')  # see test_detection_configs.py
# Folders without configs of the paper's tables.
OTHERS = ('comparisons', 'demo', 'study', 'weights')

DATASETS = {
    'pcam': (PCamDataset, 'data/pcam/histopathologic-cancer-detection', 'data/pcam/splits'),
    'lgg': (LGGDataset, 'data/lgg/kaggle_3m', 'data/lgg/splits'),
    'lgg_slices': (LGGSliceDataset, 'data/lgg/kaggle_3m', 'data/lgg/splits'),
    'ham10000_cls': (HAM10000Dataset, 'data/ham10000/published', 'data/ham10000/splits_cls'),
    'ham10000_seg': (HAM10000SegDataset, 'data/ham10000/published', 'data/ham10000/splits_seg'),
}
SEGMENTED = ('lgg', 'ham10000_seg')
SIZES = dict.fromkeys(DATASETS, (224, 224)) | {'lgg': (256, 256)}
LAST_CHANNELS = {'r50': 2048, 'r18': 512, 'mbv1': 1024}
MAPS = {
    'r50': [64, 256, 512, 1024, 2048],
    'r18': [64, 64, 128, 256, 512],
    'mbv1': [64, 128, 256, 512, 1024],
}


def load(name):
    return load_config(CONFIGS / f'{name}.py')


def parsed(name):
    return re.fullmatch(
        r'(?P<mode>\w+)/(?P<teacher>r50)_(?P<student>r18|mbv1)x2_(?P<style>v\d)_(?P<dataset>\w+)',
        name,
    ).groupdict()


def dataset_of(name):
    return re.search(r'_(pcam|lgg|lgg_slices|ham10000_cls|ham10000_seg)$', name)[1]


def table_rows():
    with open(TABLE, newline='') as file:
        for row in csv.DictReader(file):
            if row['table'] in REPEATED:
                continue
            kind = {'classification': '_cls', 'segmentation': '_seg'}[row['task']]
            dataset = row['dataset'] + (kind if row['dataset'] == 'ham10000' else '')
            student = {'mobilenet': 'mbv1'}.get(row['student'], row['student'])
            weights = {
                letter: tuple(float(row[f'{letter}_{k}']) for k in (1, 2))
                for letter in ('alpha', 'beta', 'gamma')
            }
            yield f'{row["mode"]}/r50_{student}x2_{row["style"]}_{dataset}', row, weights


def check_pretrained_backbone(backbone, network, resnet):
    if network == 'mbv1':
        assert backbone['type'] is PretrainedTIMMBackbone
        assert (backbone['model_name'], backbone['pretrained']) == ('mobilenetv1_100', True)
        assert 'init_cfg' not in backbone
    else:
        depth = int(network[1:])
        assert (backbone['type'], backbone['depth']) == (resnet, depth)
        assert backbone['init_cfg'].to_dict() == dict(
            type='Pretrained', checkpoint=f'torchvision://resnet{depth}'
        )


def check_network(member, network, block, dataset):
    """Compare a network with Table 6 (classifiers) or 7 (U-Nets) of the paper."""
    preprocessor = member['data_preprocessor']
    assert preprocessor['mean'] == [123.675, 116.28, 103.53]
    assert preprocessor['std'] == [58.395, 57.12, 57.375]
    if dataset in SEGMENTED:
        assert member['type'] is EncoderDecoder
        assert preprocessor['bgr_to_rgb'] is True
        check_pretrained_backbone(member['backbone'], network, StemResNet)
        head = member['decode_head']
        assert (head['type'], head['in_channels']) == (UNetHead, MAPS[network])
        assert (head['num_classes'], head['out_channels']) == (2, 1)
        assert head['loss_decode']['type'] is FocalDiceLoss
        return
    assert member['type'] is ImageClassifier
    assert preprocessor['to_rgb'] is True
    check_pretrained_backbone(member['backbone'], network, ResNet)
    channels = block or LAST_CHANNELS[network]
    head = member['head']
    classes = 7 if dataset == 'ham10000_cls' else 2
    assert (head['type'], head['num_classes']) == (LinearClsHead, classes)
    assert head['in_channels'] == channels
    if block is None:
        assert member['neck'].to_dict().keys() == {'type'}
        assert member['neck']['type'] is GlobalAveragePooling
    else:
        assert member['neck']['type'] is ConvBlockNeck
        assert (member['neck']['in_channels'], member['neck']['out_channels']) == (
            LAST_CHANNELS[network],
            block,
        )


def test_config_files_match_expected_names():
    found = {str(path.relative_to(CONFIGS).with_suffix('')) for path in CONFIGS.rglob('*.py')}
    assert all((CONFIGS / folder).is_dir() for folder in OTHERS)
    others = {name for name in found if name.startswith(('_base_', *OTHERS))}
    detectors = {name for name in found if DETECTORS.fullmatch(name)}
    assert found - others - detectors == {*ALL, NIH}
    assert len(ALL) == len(set(ALL)) == 48 + 24 + 1 + 12


@pytest.mark.parametrize('name', ALL)
def test_config_is_short_and_has_a_docstring(name):
    text = (CONFIGS / f'{name}.py').read_text()
    assert len(text.splitlines()) <= 15
    assert text.startswith('"""')


@pytest.mark.parametrize('name', CLASSROOMS)
def test_classroom_config_matches_its_name(name):
    expected, model = parsed(name), load(name).model
    assert model['type'] is DiversifiedKDMLDistiller
    assert (model['mode'], model['style']) == (expected['mode'], expected['style'])
    dataset = expected['dataset']
    block = None if dataset in SEGMENTED else LAST_CHANNELS[expected['student']]
    check_network(model['teacher'], expected['teacher'], block, dataset)
    assert len(model['students']) == 2
    for student in model['students']:
        check_network(student, expected['student'], None, dataset)
    assert model['ensemble'] == ('union' if dataset in SEGMENTED else 'max')
    assert model['temperature'] == 2.0
    # As in eq. 3 and 5; explicit in the configs, although these are the defaults.
    assert (model['kl_direction'], model['kl_scale']) == ('learner||source', 'none')
    assert tuple(model['input_size']) == SIZES[dataset]


def test_weights_match_the_paper_tables():
    rows = {name: (row, weights) for name, row, weights in table_rows()}
    assert set(rows) == set(CLASSROOMS) - {SLICES}
    rows[SLICES] = rows['kdml/r50_r18x2_v3_pcam']
    letters = {'ml': 'alpha gamma', 'kd_off': 'alpha beta', 'kd_on': 'alpha beta'}
    for name, (row, weights) in rows.items():
        found = {letter: tuple(pair) for letter, pair in load(name).model['weights'].items()}
        used = letters.get(row['mode'], 'alpha beta gamma').split()
        assert found == {letter: weights[letter] for letter in used}, name
        assert all(weights[letter] == (0, 0) for letter in weights if letter not in used)
        # The docstring names the table.
        assert f'eights: {row["table"]}.' in (CONFIGS / f'{name}.py').read_text()


@pytest.mark.parametrize('name', [*ALL, *COMPARISONS])
def test_data_optimizer_and_metrics(name):
    config, dataset = load(name), dataset_of(name)
    assert config.get('default_scope', 'missing') is None
    kind, root, splits = DATASETS[dataset]
    for part in ('train', 'val', 'test'):
        loader = config[f'{part}_dataloader']
        assert loader['batch_size'] == 8
        assert loader['sampler']['type'] is DefaultSampler
        assert loader['sampler']['shuffle'] == (part == 'train')
        source = loader['dataset']
        assert (source['type'], source['data_root']) == (kind, root)
        assert source['ann_file'] == f'{splits}/{part}.csv'
        assert source.get('test_mode', False) == (part != 'train')
        scales = [tuple(step['scale']) for step in source['pipeline'] if step['type'] is Resize]
        assert scales == [SIZES[dataset]]
        loads_masks = [step['type'] for step in source['pipeline']].count(LoadBinaryMask)
        assert loads_masks == (dataset in SEGMENTED)
        augmented = [s for s in source['pipeline'] if s['type'] is AlbumentationsTransform]
        expected = [HorizontalFlip, VerticalFlip, Transpose, Affine] if part == 'train' else []
        assert [t['type'] for s in augmented for t in s['transforms']] == expected
    # FLOPs of a baseline and of the same network in a classroom are for images of this size.
    assert data_image_size(config) == SIZES[dataset]
    assert config.model.get('input_size', SIZES[dataset]) == SIZES[dataset]
    assert config.optim_wrapper['type'] is OptimWrapper
    adam = config.optim_wrapper['optimizer']
    assert (adam['type'], adam['lr'], len(adam)) == (Adam, 1e-4, 2)
    main, *auxiliary = config.test_evaluator
    assert main == config.val_evaluator
    per_class = [] if dataset in SEGMENTED else [ConfusionMatrix]
    assert [metric['type'] for metric in auxiliary] == [
        Fidelity,
        Diversity,
        Calibration,
        *per_class,
    ]
    assert config.val_evaluator['type'] is MemberMetrics
    metric = config.val_evaluator['metric']
    if dataset in SEGMENTED:
        assert (metric['type'], metric['per_case']) == (ForegroundIoU, 'group')
    else:
        assert [one['type'] for one in metric] == [Accuracy, MacroPrecisionRecall]
        assert (metric[1]['items'], metric[1]['zero_division']) == (('precision', 'recall'), 0)
    who = 'model' if name.startswith('baselines') else 'ensemble'
    what = 'foreground/IoU' if dataset in SEGMENTED else 'accuracy/top1'
    checkpoint = config.default_hooks['checkpoint']
    assert (checkpoint['save_best'], checkpoint['rule']) == (f'{who}/{what}', 'greater')
    hooks = [hook['type'] for hook in config.custom_hooks]
    assert hooks[0] is MemberTableHook
    assert ReliabilityHook in hooks
    assert (PanelHook in hooks) == (dataset in SEGMENTED)
    assert (ConfusionHook in hooks) == (dataset not in SEGMENTED)
    assert config.default_hooks['non_finite'] == dict(type=NonFiniteLossHook, policy='stop')


@pytest.mark.parametrize('name', CLASSROOMS)
def test_offline_teacher_is_a_baseline(name):
    config = load(name)
    if not name.startswith('kd_off'):
        assert 'teacher_checkpoint' not in config.model
        return
    baseline = load(f'baselines/{Path(config.model.teacher_checkpoint).name}')
    assert config.model.teacher_checkpoint == baseline.work_dir
    assert config.model.teacher.to_dict() == baseline.model.to_dict()
    # The test images of the students are not training images of the teacher.
    assert config.train_dataloader.to_dict() == baseline.train_dataloader.to_dict()


@pytest.mark.parametrize('name', BASELINES)
def test_baseline_config_matches_its_name(name):
    config = load(f'baselines/{name}')
    check_network(config.model, *BASELINES[name], dataset_of(name))
    assert config.work_dir == f'work_dirs/baselines/{name}'


def test_nih_config():
    config, other = load(NIH), load('kdml/r50_r18x2_v3_ham10000_cls')
    assert config.model['weights'].to_dict() == other.model['weights'].to_dict()
    for network in (config.model['teacher'], *config.model['students']):
        head = network['head']
        assert (head['type'], head['num_classes']) == (MultiLabelLinearClsHead, 14)
        assert head['loss'] == dict(type=CrossEntropyLoss, use_sigmoid=True)
    # Everything else is as for one class per image.
    for one in (config, other):
        for network in (one.model['teacher'], *one.model['students']):
            network.pop('head')
    assert config.model.to_dict() == other.model.to_dict()
    for part in ('train', 'val', 'test'):
        source = config[f'{part}_dataloader']['dataset']
        assert (source['type'], source['data_root']) == (ChestXray14Dataset, 'data/nih/published')
        assert source['ann_file'] == f'data/nih/splits/{part}.csv'
        assert source.get('test_mode', False) == (part != 'train')
        augmented = [s for s in source['pipeline'] if s['type'] is AlbumentationsTransform]
        flips = [HorizontalFlip] if part == 'train' else []
        assert [t['type'] for s in augmented for t in s['transforms']] == flips
    main, *auxiliary = config.test_evaluator
    assert main == config.val_evaluator
    kinds = [MultiLabelAUROC, AveragePrecision, MultiLabelMetric]
    assert [metric['type'] for metric in main['metric']] == kinds
    assert [metric['type'] for metric in auxiliary] == [
        Fidelity,
        Diversity,
        Calibration,
        ConfusionMatrix,
    ]
    assert config.default_hooks['checkpoint']['save_best'] == 'ensemble/multi-label/AUROC'


def test_demo_config():
    config = load(DEMO)
    model = config.model
    assert model['type'] is DiversifiedKDMLDistiller
    assert (model['mode'], model['style']) == ('kdml', 'v3')
    for member in (model['teacher'], *model['students']):
        assert (member['backbone']['depth'], member['backbone'].get('init_cfg')) == (18, None)
    for part in ('train', 'val', 'test'):
        loader = config[f'{part}_dataloader']
        assert loader['num_workers'] == 0
        assert loader['dataset']['data_root'] == 'data/demo/kaggle_3m'
        assert loader['dataset']['ann_file'] == f'data/demo/splits/{part}.csv'
        scales = [step['scale'] for step in loader['dataset']['pipeline'] if 'scale' in step]
        assert [tuple(scale) for scale in scales] == [(64, 64)] == [tuple(model['input_size'])]
    assert config.param_scheduler['T_max'] == config.train_cfg['max_epochs']
