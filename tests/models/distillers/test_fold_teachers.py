"""Frozen members with a network for each part of the images."""

import copy
import json
import shutil

import pytest
import torch
from mmengine.registry import MODELS

from mmkdml.models import KnowledgeDistiller, Transfer
from mmkdml.models.distillers.fold_teachers import write_fold_teachers
from mmkdml.models.taps import TapRecorder

both = pytest.mark.parametrize('task', ['classification', 'segmentation'], indirect=True)
# Teacher of each image of a batch.
PARTS = (['0', '3'], ['1'], ['2', '5'])


def named(task, number=4):
    """Return a batch whose samples have ids '0', '1'..."""
    inputs, samples = task.batch()
    inputs = torch.cat([inputs] * number)[:number] + torch.randn(number, 1, 1, 1)
    samples = [copy.deepcopy(samples[index % len(samples)]) for index in range(number)]
    for index, sample in enumerate(samples):
        sample.set_metainfo(dict(id=str(index)))
    return inputs, samples


def save(network, path, **meta):
    path.parent.mkdir(exist_ok=True)
    torch.save(dict(state_dict=network.state_dict(), meta=meta), path)
    return path


@pytest.fixture
def networks(task):
    return [MODELS.build(task.teacher()) for _ in PARTS]


@pytest.fixture
def table(task, networks, tmp_path):
    paths = [save(one, tmp_path / 'runs' / f'{i}.pth') for i, one in enumerate(networks)]
    return write_fold_teachers(tmp_path / 'student' / 'teachers.json', paths, PARTS)


@pytest.fixture(autouse=True)
def _folder(tmp_path):
    (tmp_path / 'student').mkdir()


def classroom(task, table, kinds=('predictions', 'features'), **options):
    return KnowledgeDistiller(
        members=dict(teacher=MODELS.build(task.teacher()), student=task.student()),
        transfers=[Transfer('teacher', 'student', kind, 1.0) for kind in kinds],
        frozen=dict(teacher=str(table)),
        input_size=(32, 32),
        **options,
    )


def test_each_image_is_taught_by_its_own_network(task, networks, table):
    distiller = classroom(task, table)
    inputs, samples = named(task)
    outputs, log = distiller.forward_frozen('teacher', inputs, samples)
    (tap,) = distiller._taps['teacher']
    assert log == {}
    for index in range(len(samples)):
        (own,) = (n for n, part in zip(networks, PARTS, strict=True) if str(index) in part)
        with TapRecorder(own.eval(), [tap]) as recorder, torch.no_grad():
            logits = distiller.task.logits(own, inputs[index : index + 1])
        torch.testing.assert_close(outputs.logits[index : index + 1], logits)
        torch.testing.assert_close(outputs.taps[tap][index : index + 1], recorder[tap])


@both
def test_losses_and_predictions(task, networks, table, tiny):
    """A batch of images of one teacher equals that of a classroom with this teacher only."""
    torch.manual_seed(0)
    several = classroom(task, table)
    inputs, samples = named(task, 1)
    single = classroom(task, table.parent.parent / 'runs' / '0.pth')
    single.load_state_dict({k: v for k, v in several.state_dict().items() if 'frozen' not in k})
    single.eval(), several.eval()
    torch.testing.assert_close(
        several(inputs, samples, mode='loss'), single(inputs, samples, mode='loss')
    )
    # Of several networks the first predicts.
    first, other = (one(inputs, samples, mode='tensor')['teacher'] for one in (several, single))
    torch.testing.assert_close(first, other)
    inputs, samples = named(task)
    several.train()
    losses = several(inputs, samples, mode='loss')
    sum(value.sum() for key, value in losses.items() if 'loss' in key).backward()
    assert not any(p.requires_grad for n in several._frozen.of_folds['teacher'].networks
                   for p in n.parameters())  # fmt: skip


@both
def test_copies_and_casts_keep_all_networks(task, table):
    distiller = classroom(task, table)
    inputs, samples = named(task)
    expected = distiller.forward_frozen('teacher', inputs, samples)[0].logits
    twin = copy.deepcopy(distiller)
    shared = twin._frozen.of_folds['teacher'].networks[2]
    assert shared is distiller._frozen.of_folds['teacher'].networks[2]
    twin.double()
    doubled = twin.forward_frozen('teacher', inputs.double(), samples)[0].logits
    torch.testing.assert_close(doubled.float(), expected, rtol=1e-3, atol=1e-4)
    again = distiller.forward_frozen('teacher', inputs, samples)[0].logits
    torch.testing.assert_close(again, expected, rtol=0, atol=0)
    assert not any('teacher' in key for key in distiller.state_dict())


@both
def test_resuming_checks_every_network(task, networks, table, tmp_path):
    state = classroom(task, table).state_dict()
    moved = tmp_path / 'moved'
    for folder in ('student', 'runs'):
        shutil.copytree(tmp_path / folder, moved / folder)
    distiller = classroom(task, moved / 'student' / 'teachers.json')
    distiller.load_state_dict(copy.copy(state))
    assert distiller.frozen_files['teacher 1'] == str(moved / 'runs' / '1.pth')
    save(networks[0], moved / 'runs' / '1.pth')
    with pytest.raises(ValueError, match=r'frozen teacher 1: .*runs/1\.pth'):
        classroom(task, moved / 'student' / 'teachers.json').load_state_dict(copy.copy(state))
    write_fold_teachers(table, [tmp_path / 'runs' / f'{i}.pth' for i in range(3)], PARTS[::-1])
    with pytest.raises(ValueError, match='frozen teacher images'):
        classroom(task, table).load_state_dict(copy.copy(state))


@both
def test_samples_without_a_teacher_raise(task, table):
    distiller = classroom(task, table)
    inputs, samples = named(task, 5)
    with pytest.raises(ValueError, match="sample '4'.* 5 images with a teacher"):
        distiller.loss(inputs, samples)
    inputs, samples = task.batch()
    with pytest.raises(ValueError, match="sample None.*'id' in meta_keys"):
        distiller.loss(inputs, samples)


@both
def test_settings_for_one_teacher_raise(task, table, tmp_path):
    cache = dict(path=tmp_path / 'cache', limit=1)
    with pytest.raises(ValueError, match='Invalid teacher_cache: .*teacher has a file'):
        classroom(task, table, teacher_cache=cache)
    if task.name == 'classification':
        student = task.student()
        student['train_cfg'] = dict(augments=dict(type='Mixup', alpha=0.2))
        with pytest.raises(ValueError, match='Invalid batch augmentations'):
            KnowledgeDistiller(
                members=dict(teacher=task.teacher(), student=student),
                transfers=[Transfer('teacher', 'student', 'predictions', 1.0)],
                frozen=dict(teacher=str(table)),
                input_size=(32, 32),
            )


@pytest.mark.parametrize('task', ['classification'], indirect=True)
@pytest.mark.parametrize(
    'content', ['', '[]', '{"checkpoints": []}', {}, {'teacher_of': {'a': 3}},
                {'teacher_of': {'a': '0'}}, {'checkpoints': [], 'teacher_of': {}}],
)  # fmt: skip
def test_invalid_files_raise(task, table, content):
    before = json.loads(table.read_text())
    del before['teacher_of']
    table.write_text(content if isinstance(content, str) else json.dumps(before | content))
    with pytest.raises(ValueError, match=r'Invalid teachers of folds in .*teachers\.json'):
        classroom(task, table)


def test_invalid_arguments_raise(tmp_path):
    with pytest.raises(ValueError, match="got two for 'b'"):
        write_fold_teachers(tmp_path / 'x.json', ['p', 'q'], [['a', 'b'], ['b']])
    for path, checkpoints in (('x.pth', ['p']), ('x.json', ['p', 'q']), ('x.json', [])):
        with pytest.raises(ValueError, match='expected a file'):
            write_fold_teachers(tmp_path / path, checkpoints, [['a']])
    assert not list(tmp_path.glob('x*'))
