"""The compared methods over some steps, and in settings that nobody has compared them in."""

import copy

import pytest
import torch
from torch import nn

from mmkdml.models import (
    AttentionTransferLoss,
    ChannelWiseLoss,
    FitNetLoss,
    IntraClassVariationLoss,
    KnowledgeDistiller,
    PairWiseLoss,
    PredictionKLLoss,
    RegionAffinityLoss,
    SemCKDLoss,
    SimilarityPreservingLoss,
    SRRLLoss,
    VariationalInformationLoss,
)
from mmkdml.registry import MODELS

NAMES = {
    'classification': ['at', 'fitnet', 'semckd', 'sp', 'srrl', 'vid'],
    'segmentation': ['at', 'cwd', 'dsd', 'emkd', 'fitnet', 'ifvd', 'skd', 'skd_adversarial'],
}
METHODS = [*NAMES, *(f'{name}_{task}' for task, names in NAMES.items() for name in names)]
ROUNDS = 12


def pictures(task, size, tiny):
    """Two batches of eight: of a class a colour, or bright squares, in noise."""
    generator = torch.Generator().manual_seed(4)
    inputs = 0.3 * torch.randn(16, 3, size, size, generator=generator)
    if task == 'classification':
        inputs[torch.arange(16), torch.arange(16) % 3] += 1
        samples = tiny.class_samples(16)
    else:
        masks = torch.zeros(16, size, size, dtype=torch.long)
        for index, mask in enumerate(masks):
            mask[index : index + 16, 8:24] = 1
        inputs += masks.unsqueeze(1)
        samples = tiny.as_samples(masks)
    return [(inputs[:8], samples[:8]), (inputs[8:], samples[8:])]


def train(model, batches, tiny):
    """The mean losses of the first and of the last round over both batches."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model.train()
    rounds = []
    for _ in range(ROUNDS):
        rounds.append([])
        for inputs, samples in batches:
            losses = model(inputs, samples, mode='loss')
            optimizer.zero_grad()
            tiny.optimised(losses).backward()
            optimizer.step()
            rounds[-1].append({key: value.item() for key, value in losses.items()})
    return [{key: (a[key] + b[key]) / 2 for key in a} for a, b in (rounds[0], rounds[-1])]


@pytest.fixture(scope='module')
def teachers():
    """A network of each task, trained once on the pictures that its students see."""
    return {}


def classroom(method, tiny, teachers):
    task = method.rpartition('_')[2]
    size = 32 if task == 'segmentation' and 'adversarial' not in method else 64
    batches, classes = pictures(task, size, tiny), 3 if task == 'classification' else 1
    if (task, size) not in teachers:
        teacher = MODELS.build(tiny.compared_members(task, classes)['teacher'])
        train(teacher, batches, tiny)
        teachers[task, size] = teacher
    members = tiny.compared_members(method, classes)
    members['teacher'] = copy.deepcopy(teachers[task, size])
    transfers = tiny.method_settings(method)['transfers']
    if method.startswith('dsd'):
        transfers[0]['weight'] = 10.0  # of 1000, by which so few steps go to the maps alone
    return tiny.compared(method, members=members, transfers=transfers), batches


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_sixteen_pictures_are_learnt(method, tiny, teachers):
    distiller, batches = classroom(method, tiny, teachers)
    first, last = train(distiller, batches, tiny)
    (supervised,) = (key for key in first if 'loss' in key and 'loss_from' not in key)
    assert last[supervised] < 0.6 * first[supervised]
    assert tiny.optimised(last) < 0.8 * tiny.optimised(first)


@pytest.mark.slow
def test_simkd_comes_to_say_what_the_teacher_says(tiny, teachers):
    distiller, batches = classroom('simkd_classification', tiny, teachers)
    first, last = train(distiller, batches, tiny)
    key = 'student.loss_from_teacher.features'
    assert last[key] < 0.6 * first[key]
    distiller.eval()
    for inputs, samples in batches:
        answers = distiller(inputs, samples, mode='predict')
        said = {
            name: [getattr(answer.members, name).pred_label.item() for answer in answers]
            for name in ('student', 'teacher')
        }
        assert len(set(said['teacher'])) == 3
        assert said['student'] == said['teacher']


# ---- students that teach each other, by methods made for a teacher ---------------------------


def features(source, learner, loss, tap='backbone', **kwargs):
    taps = dict(source_tap=tap, learner_tap=tap)
    return dict(
        source=source,
        learner=learner,
        knowledge='features',
        weight=1.0,
        loss=loss,
        **{**taps, **kwargs},
    )


def predictions(source, learner, loss):
    return dict(source=source, learner=learner, knowledge='predictions', weight=1.0, loss=loss)


STAGES = [f'backbone.layer{stage}' for stage in (1, 2, 3, 4)]
LAST = 'decode_head.blocks.4'
T, A, B = 'teacher', 'a', 'b'
SETTINGS = {
    'classification': {
        'ml': [
            features(B, A, dict(type=SRRLLoss)),
            features(A, B, dict(type=VariationalInformationLoss), STAGES),
        ],
        'ml_semckd_both_ways': [
            features(B, A, dict(type=SemCKDLoss, batch_size=2, factor=1), STAGES),
            features(A, B, dict(type=SemCKDLoss, batch_size=2, factor=1), STAGES),
        ],
        'kdml': [
            features(T, A, dict(type=SimilarityPreservingLoss)),
            predictions(B, A, dict(type=PredictionKLLoss)),
            features(T, B, dict(type=AttentionTransferLoss), STAGES),
            features(A, B, dict(type=FitNetLoss), STAGES[0], projector=dict(type='mmkdml.ConvReg')),
        ],
    },
    'segmentation': {
        'ml': [
            features(
                B,
                A,
                dict(type=ChannelWiseLoss),
                LAST,
                projector=dict(type='mmkdml.LinearProjector', bias=False),
            ),
            features(A, B, dict(type=IntraClassVariationLoss), LAST),
        ],
        'kdml': [
            features(T, A, dict(type=RegionAffinityLoss), STAGES[1:2]),
            predictions(B, A, dict(type=ChannelWiseLoss)),
            features(T, B, dict(type=PairWiseLoss), 'decode_head.blocks.1'),
            features(A, B, dict(type=AttentionTransferLoss), LAST),
        ],
    },
}


def several(task, setting, tiny, frozen=True):
    own = tiny.compared_members(task, 3)
    members = dict(a=own['student'], b=copy.deepcopy(own['student']))
    if setting == 'kdml':
        members = dict(teacher=own['teacher'], **members)
    return KnowledgeDistiller(
        members=members,
        transfers=SETTINGS[task][setting],
        frozen=dict(teacher=None) if setting == 'kdml' and frozen else None,
        input_size=(64, 64),
    )


ROWS = [(task, setting) for task, settings in SETTINGS.items() for setting in settings]


@pytest.mark.parametrize(('task', 'setting'), ROWS)
def test_two_methods_at_once_among_students(task, setting, tiny):
    distiller = several(task, setting, tiny)
    assert distiller.student_names == ('a', 'b')
    inputs, samples = tiny.compared_batch(task)
    losses = distiller.train()(inputs, samples, mode='loss')
    keys = [key for key in losses if 'loss_from' in key]
    assert len(keys) == len(SETTINGS[task][setting])
    for key, term in zip(keys, distiller.transfer_terms, strict=True):
        distiller.zero_grad()
        losses[key].backward(retain_graph=True)
        moved = {
            name
            for name, member in distiller.named_members().items()
            if any(p.grad is not None and p.grad.any() for p in member.parameters())
        }
        assert moved == {term.transfer.learner}, key  # its source stays as it is
    distiller.zero_grad()
    tiny.optimised(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters())


@pytest.mark.parametrize(('task', 'setting'), [row for row in ROWS if row[1] == 'kdml'])
def test_a_teacher_may_learn_along(task, setting, tiny):
    distiller = several(task, setting, tiny, frozen=False)
    losses = distiller.train()(*tiny.compared_batch(task), mode='loss')
    assert any(key.startswith('teacher.') for key in losses)
    tiny.optimised(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters())


def test_srrl_among_students_leaves_the_others_classifier_alone(tiny):
    """It learns from its own truth, and not from what its peer makes of it."""
    distiller = several('classification', 'ml', tiny).train()
    losses = distiller(*tiny.compared_batch('classification'), mode='loss')
    losses['a.loss_from_b.features'].backward()
    head = distiller.members['b'].head.fc
    assert isinstance(head, nn.Linear)
    assert all(p.requires_grad and p.grad is None for p in head.parameters())
