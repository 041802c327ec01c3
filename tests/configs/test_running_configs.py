"""Configs in use: a training step, data pipelines, metrics."""

import json
import re
import socket
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.optim import build_optim_wrapper
from mmengine.runner import Runner
from PIL import Image

from mmkdml.apis import load_config
from mmkdml.datasets import (
    ChestXray14Dataset,
    convert_ham10000,
    convert_lgg,
    convert_multi_label,
    convert_nnunet,
    convert_pcam,
    make_demo_data,
)
from mmkdml.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'
DETECTORS = re.compile(r'bccd|_det')  # see test_detection_configs.py
ALL = sorted(
    str(path.relative_to(CONFIGS).with_suffix(''))
    for path in CONFIGS.glob('[!_]*/*.py')
    if not DETECTORS.search(path.stem)
)
FAST = {
    'baselines/r50_c1024_pcam',
    'demo/kdml_v3_demo',
    'kd_off/r50_r18x2_v2_pcam',
    'kd_on/r50_mbv1x2_v3_lgg',
    'kdml/r50_r18x2_v3_lgg',
    'kdml/r50_mbv1x2_v3_pcam',
    'ml/r50_r18x2_v1_lgg',
    'kdml/r50_r18x2_v3_ham10000_cls',
    'baselines/r18_ham10000_seg',
    'comparisons/simkd_r50_r18_pcam',
    'comparisons/cwd_r50_r18_lgg',
}
STUDENTS = ('student_1', 'student_2')
COLOR = (200, 100, 50)  # red, green, blue


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError('the network was used')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    torch.manual_seed(0)
    np.random.seed(0)


def make_ham10000(folder):
    """Write three images of 40x48 per diagnosis, each with a lesion."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(1)
    lines = ['lesion_id,image_id,dx']
    for place, dx in enumerate(['akiec', 'bcc', 'bkl', 'df', 'mel', 'nv', 'vasc'] * 3):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{place}.jpg')
        mask = np.zeros((40, 48), np.uint8)
        mask[10:20, place : place + 20] = 255
        Image.fromarray(mask).convert('P').save(folder / f'{place}_segmentation.png')
        lines.append(f'lesion_{place},{place},{dx}')
    (folder / 'HAM10000_metadata.csv').write_text('\n'.join(lines))


def make_nih(folder):
    """Write eight gray images of 40x48 with up to two findings, of one patient each."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(2)
    lines = ['Image Index,Finding Labels,Patient ID']
    names = ChestXray14Dataset.METAINFO['classes']
    for place in range(8):
        pixels = rng.integers(0, 256, (40, 48), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f'{place}.png')
        found = '|'.join(names[place : place + place % 3]) or 'No Finding'
        lines.append(f'{place}.png,{found},{place}')
    (folder / 'Data_Entry_2017.csv').write_text('\n'.join(lines))


def make_hippocampus(folder):
    """Write six MRI volumes in the layout of the Decathlon, each with all classes."""
    rng = np.random.default_rng(3)
    names = [f'hippocampus_{place:03}.nii.gz' for place in range(6)]
    for part in ('imagesTr', 'labelsTr'):
        (folder / part).mkdir(parents=True)
        for name in names:
            voxels = rng.integers(0, 3 if part == 'labelsTr' else 200, (12, 10, 8))
            nibabel.save(
                nibabel.Nifti1Image(voxels.astype(np.float32), np.eye(4)), folder / part / name
            )
    content = dict(
        modality={'0': 'MRI'},
        labels={'0': 'background', '1': 'Anterior', '2': 'Posterior'},
        numTraining=len(names),
        training=[dict(image=f'./imagesTr/{n}', label=f'./labelsTr/{n}') for n in names],
    )
    (folder / 'dataset.json').write_text(json.dumps(content))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Working directory with data in the published layout at the paths of the configs."""
    folder = tmp_path_factory.mktemp('clone')
    for name, splits in (('lgg', 'splits'), ('demo', 'splits'), ('lgg128', 'folds')):
        source = make_demo_data(folder / f'data/{name}/kaggle_3m', patients=6, slices=3, size=48)
        convert_lgg(source, folder / 'data' / name / splits, ratios=(34, 33, 33))
    make_ham10000(folder / 'data/ham10000/published')
    for task in ('cls', 'seg'):
        arguments = dict(task=task, ratios=(34, 33, 33), balance=2 if task == 'cls' else None)
        out = folder / f'data/ham10000/splits_{task}'
        convert_ham10000(folder / 'data/ham10000/published', out, **arguments)
    make_hippocampus(folder / 'data/hippocampus/published')
    source = folder / 'data/hippocampus/published'
    convert_nnunet(source, folder / 'data/hippocampus', ratios=(34, 33, 33))
    make_nih(folder / 'data/nih/published')
    convert_multi_label(
        folder / 'data/nih/published',
        folder / 'data/nih/splits',
        'Data_Entry_2017.csv',
        ratios=(34, 33, 33),
    )
    source = folder / 'data/pcam/histopathologic-cancer-detection'
    (source / 'train').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(12):
        tile = rng.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(tile).save(source / 'train' / f'{index:02}.tif')
    rows = [f'{index:02},{index % 2}\n' for index in range(12)]
    (source / 'train_labels.csv').write_text('id,label\n' + ''.join(rows))
    convert_pcam(source, folder / 'data/pcam/splits', subset=0, ratios=(34, 33, 33))
    return folder


def is_classroom(config):
    return 'students' in config.model or 'members' in config.model


def narrow(teacher):
    """Use a quarter of the channels: SemCKD has 253 million weights with all of them."""
    teacher.backbone.base_channels = 16
    teacher.neck.update(in_channels=512, out_channels=128)
    teacher.head.in_channels = 128


@pytest.fixture
def small(folder, monkeypatch):
    """Function that loads a config for 64x64 images, batches of 2 and an untrained teacher."""
    monkeypatch.chdir(folder)

    def load(name):
        config = load_config(CONFIGS / f'{name}.py')
        for part in ('train', 'val', 'test'):
            loader = config[f'{part}_dataloader']
            loader.update(batch_size=2, num_workers=0, persistent_workers=False)
            for step in loader['dataset']['pipeline']:
                if 'scale' in step:
                    step['scale'] = (64, 64)
        if is_classroom(config):
            config.model.input_size = (64, 64)
        if config.model.get('mode') == 'kd_off':
            config.model.teacher_checkpoint = None
        if 'frozen' in config.model:
            config.model.frozen = dict.fromkeys(config.model.frozen)
        if 'semckd' in name and 'study' not in name:
            narrow(config.model.members.teacher)
        return config

    return load


def batches(config, part):
    return Runner.build_dataloader(config[f'{part}_dataloader'], seed=0)


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def segments(config):
    model = config.model
    networks = [model, *model.get('students', []), *model.get('members', {}).values()]
    return 'decode_head' in networks[-1]


def planned_losses(model, supervised):
    """Return the log keys of the transfers: repeated keys are numbered, discriminators add one."""
    keys = [
        'loss',
        *(f'{name}.{supervised}' for name in model.members if name not in model.get('frozen', {})),
    ]
    for row in model.transfers:
        key = f'{row.learner}.loss_from_{row.source}.{row.knowledge}'
        before = sum(one.startswith(key) for one in keys)
        keys.append(f'{key}_{before + 1}' if before else key)
        if 'discriminator_weight' in row.get('loss', {}):
            keys.append(f'{keys[-1]}.discriminator')
    return set(keys)


def expected_losses(config, paper_transfers):
    supervised = 'loss'
    if segments(config):
        emkd = any(
            'ImportanceMap' in str(row.get('loss')) for row in config.model.get('transfers', [])
        )
        supervised = f'decode.loss_focal_{"smooth_" if emkd else ""}dice'
    if 'members' in config.model:
        return planned_losses(config.model, supervised)
    if 'students' not in config.model:
        return {'loss', supervised, *(['decode.acc_seg'] if segments(config) else [])}
    mode, style = config.model.mode, config.model.style
    taught = [*(['teacher'] if mode in ('kd_on', 'kdml') else []), *STUDENTS]
    return {
        'loss',
        *(f'{member}.{supervised}' for member in taught),
        # The accuracy of several classes, which the heads compute.
        *(f'{name}.decode.acc_seg' for name in taught if decoded_classes(config) > 2),
        *(
            f'{learner}.loss_from_{source}.{kind}'
            for source, learner, kind, _ in paper_transfers[mode, style]
        ),
        *changing_weights(config.model, paper_transfers[mode, style]),
    }


def decoded_classes(config):
    return config.model.students[0].get('decode_head', {}).get('num_classes', 0)


def changing_weights(model, transfers):
    """Return the log keys of weights that have a schedule or are learned."""
    if 'weight_schedules' in model or 'learned_weights' in model:
        for source, learner, kind, _ in transfers:
            yield f'{learner}.weight_from_{source}.{kind}'
    if 'learned_weights' in model:
        yield from (
            'loss_learned_weights',
            *(f'{student}.weight_supervised' for student in STUDENTS),
        )


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in ALL]
)
@pytest.mark.usefixtures('recycled_noise')
def test_config_trains_a_step(name, small, paper_transfers):
    config = small(name)
    config.optim_wrapper.optimizer.fused = True  # the same step, faster
    model = MODELS.build(config.model)
    if 'students' in config.model:
        rows = [(row.source, row.learner, row.knowledge) for row in model.transfers]
        assert rows == [row[:3] for row in paper_transfers[model.mode, model.style]]
        for index, student in enumerate(STUDENTS):
            weights = [row.weight for row in model.transfers if row.learner == student]
            expected = config.model.weights
            assert weights == [expected[key][index] for key in ('beta', 'gamma') if key in expected]
            assert model.supervised_weights[student] == expected['alpha'][index]
    held = dict(model.named_parameters())
    trained = {key: value for key, value in held.items() if value.requires_grad}
    assert len(held) - len(trained) == (2 if 'simkd' in name else 0)  # reused weight and bias
    frozen_names = getattr(model, 'frozen_names', ())
    assert bool(frozen_names) == ('frozen' in config.model or name.startswith('kd_off'))
    teacher = model.named_members()['teacher'] if frozen_names else None
    frozen = copied(teacher) if frozen_names else None

    optim_wrapper = build_optim_wrapper(model, config.optim_wrapper)
    optimized = [p for group in optim_wrapper.optimizer.param_groups for p in group['params']]
    assert {id(p) for p in optimized} == {id(p) for p in held.values()}
    assert len(optimized) == len(held)
    gradients = {}
    optim_wrapper.optimizer.register_step_pre_hook(
        lambda *_: gradients.update({key: value.grad for key, value in trained.items()})
    )
    model.train()
    for term in getattr(model, 'transfer_terms', ()):
        if term.transfer.schedule:
            term.set_weight(term.transfer.weight)
    log = model.train_step(next(iter(batches(config, 'train'))), optim_wrapper)

    assert set(log) == expected_losses(config, paper_transfers)
    assert all(value.isfinite() for value in log.values())
    parts = [value for key, value in log.items() if 'loss' in key and key != 'loss']
    torch.testing.assert_close(log['loss'], torch.stack(parts or [log['loss']]).sum())
    assert [key for key, grad in gradients.items() if grad is None] == []
    sums = {key: grad.sum() for key, grad in gradients.items()}  # finite only if all values are
    assert [key for key, one in sums.items() if not one.isfinite()] == []
    assert len(gradients) == len(trained) > 0
    if frozen is not None:
        assert not {id(p) for p in teacher.parameters()} & {id(p) for p in optimized}
        assert not any(module.training for module in teacher.modules())
        assert same(frozen, teacher.state_dict())


@pytest.mark.parametrize(
    ('name', 'size'),
    [
        ('kdml/r50_r18x2_v3_lgg', (48, 48)),
        ('kdml/r50_r18x2_v3_pcam', None),
        ('kdml/r50_r18x2_v3_lgg_slices', None),
        ('kdml/r50_r18x2_v3_ham10000_cls', None),
        ('kdml/r50_r18x2_v3_ham10000_seg', (40, 48)),
    ],
)
def test_pipelines_pack_image_truth_and_metainfo(name, size, small):
    config = small(name)
    for part in ('train', 'val', 'test'):
        dataset = batches(config, part).dataset
        truths = set()
        for index in range(len(dataset)):
            packed, info = dataset[index], dataset.get_data_info(index)
            assert (packed['inputs'].shape, packed['inputs'].dtype) == ((3, 64, 64), torch.uint8)
            sample = packed['data_samples']
            assert (sample.id, sample.group) == (info['id'], info['group'])
            assert Path(sample.img_path).stem == sample.id
            if size is not None:
                mask = sample.gt_sem_seg.data
                # Augmented like the image, but evaluated at the size of the file.
                assert tuple(mask.shape) == ((1, 64, 64) if part == 'train' else (1, *size))
                assert set(mask.unique().tolist()) <= {0, 1}
                truths.add(bool(mask.any()))
            else:
                assert sample.gt_label.tolist() == [info['gt_label']]
                truths.add(info['gt_label'])
        # All images of HAM10000 have a lesion.
        assert len(truths) > 1 or (name.endswith('_ham10000_seg') and truths == {True})


@pytest.mark.parametrize('name', ['r18_lgg', 'r18_pcam', 'r18_ham10000_cls'])
def test_colors_are_normalized_like_imagenet(name, small):
    config = small(f'baselines/{name}')
    dataset = batches(config, 'val').dataset
    path = Path(dataset.get_data_info(0)['img_path'])
    before = path.read_bytes()
    try:
        height, width = np.asarray(Image.open(path)).shape[:2]
        Image.fromarray(np.full((height, width, 3), COLOR, np.uint8)).save(path)
        packed = dataset[0]
    finally:
        path.write_bytes(before)
    model = MODELS.build(config.model)
    inputs = model.data_preprocessor(
        dict(inputs=[packed['inputs']], data_samples=[packed['data_samples']])
    )['inputs']
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    expected = torch.tensor((COLOR - mean) / std).float()
    torch.testing.assert_close(inputs, expected.view(1, 3, 1, 1).expand_as(inputs))


@pytest.mark.parametrize(
    'name',
    [
        'kdml/r50_r18x2_v3_lgg',
        'kdml/r50_r18x2_v3_lgg_slices',
        pytest.param('kd_off/r50_mbv1x2_v1_pcam', marks=pytest.mark.slow),
        pytest.param('ml/r50_mbv1x2_v2_lgg', marks=pytest.mark.slow),
        'kdml/r50_r18x2_v3_ham10000_cls',
        pytest.param('kdml/r50_r18x2_v3_ham10000_seg', marks=pytest.mark.slow),
        'kdml/r50_r18x2_v3_nih',
        'baselines/mbv1_pcam',
        'baselines/mbv1_lgg',
        'demo/kdml_v3_demo',
    ],
)
def test_evaluator_reports_the_save_best_metric(name, small):
    config = small(name)
    model = MODELS.build(config.model).eval()
    for part in ('val', 'test'):
        loader = batches(config, part)
        evaluator = Evaluator(config[f'{part}_evaluator'])
        evaluator.dataset_meta = loader.dataset.metainfo
        for batch in loader:
            evaluator.process(data_samples=model.val_step(batch), data_batch=batch)
        metrics = evaluator.evaluate(len(loader.dataset))
        assert config.default_hooks['checkpoint']['save_best'] in metrics
        who = {'model'} if name.startswith('baselines') else {*STUDENTS, 'ensemble'}
        who |= set() if name.startswith(('ml', 'baselines')) else {'teacher'}
        members = {key: value for key, value in metrics.items() if key.split('/')[0] in who}
        assert {key.split('/')[0] for key in members} == who
        # Per-class values of absent classes are undefined.
        assert all(0 <= value <= 100 for key, value in members.items() if '/per_class/' not in key)
        auxiliary = {key.split('/')[1] for key in metrics} & {
            'calibration',
            'diversity',
            'fidelity',
        }
        assert auxiliary == (
            set()
            if part == 'val'
            else {'calibration'}
            | ({'diversity'} if len(who) > 1 else set())
            | ({'fidelity'} if 'teacher' in who else set())
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['kd_off/r50_r18x2_v3_pcam', 'kd_off/r50_mbv1x2_v3_pcam', 'kd_off/r50_r18x2_v3_lgg']
)
def test_offline_teacher_is_loaded_from_the_baseline_run(name, small, folder):
    config = load_config(CONFIGS / f'{name}.py')
    config.model.input_size = (64, 64)
    baseline = load_config(CONFIGS / f'baselines/{Path(config.model.teacher_checkpoint).name}.py')
    trained = MODELS.build(small(f'baselines/{Path(baseline.work_dir).name}').model)
    Path(baseline.work_dir).mkdir(parents=True)
    torch.save(dict(state_dict=trained.state_dict()), f'{baseline.work_dir}/best_epoch_1.pth')
    assert same(copied(MODELS.build(config.model).teacher), copied(trained))


@pytest.mark.usefixtures('uninitialized')
def test_dumped_config_builds_the_same_classroom(small, tmp_path):
    config = small('kdml/r50_r18x2_v3_lgg')
    config.dump(tmp_path / 'dumped.py')
    first, second = (
        MODELS.build(one.model) for one in (config, load_config(tmp_path / 'dumped.py'))
    )
    shapes = [
        {key: value.shape for key, value in one.state_dict().items()} for one in (first, second)
    ]
    assert shapes[0] == shapes[1]
    assert repr(first.transfers) == repr(second.transfers)
