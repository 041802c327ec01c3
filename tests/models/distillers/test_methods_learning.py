"""Short trainings with the compared methods, and the methods among students."""

import copy

import pytest
import torch
from torch import nn

from mmkdml.models import (
    AttentionTransferLoss,
    ChannelWiseLoss,
    DISTLoss,
    DKDLoss,
    FitNetLoss,
    IntraClassVariationLoss,
    KnowledgeDistiller,
    LSKDLoss,
    MGDLoss,
    PairWiseLoss,
    PKDLoss,
    PredictionKLLoss,
    RegionAffinityLoss,
    SemCKDLoss,
    SimilarityPreservingLoss,
    SRRLLoss,
    VariationalInformationLoss,
)
from mmkdml.registry import MODELS

NAMES = {
    'classification': [
        *('at', 'fitnet', 'semckd', 'sp', 'srrl', 'vid'),
        *('dkd', 'dist', 'lskd', 'lskd_dkd', 'mgd', 'pkd'),
    ],
    'segmentation': [
        *('at', 'cwd', 'dsd', 'emkd', 'fitnet', 'ifvd', 'skd', 'skd_adversarial'),
        *('dist', 'mgd', 'pkd'),
    ],
}
METHODS = [*NAMES, *(f'{name}_{task}' for task, names in NAMES.items() for name in names)]
EPOCHS = 12


def noisy_batches(task, size, tiny):
    """Create two batches of eight noisy images with one color per class, or bright squares."""
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


def train(model, batches, tiny, rate=1e-2):
    """Return the mean losses of the first and of the last epoch."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate)
    model.train()
    epochs = []
    for _ in range(EPOCHS):
        epochs.append([])
        for inputs, samples in batches:
            losses = model(inputs, samples, mode='loss')
            optimizer.zero_grad()
            tiny.optimized(losses).backward()
            optimizer.step()
            epochs[-1].append({key: value.item() for key, value in losses.items()})
    return [{key: (a[key] + b[key]) / 2 for key in a} for a, b in (epochs[0], epochs[-1])]


@pytest.fixture(scope='module')
def teachers():
    """Teachers by task and image size, trained once on the images that their students see."""
    return {}


def distiller_and_batches(method, tiny, teachers):
    task = method.rpartition('_')[2]
    size = 64 if 'adversarial' in method else 32
    batches, classes = noisy_batches(task, size, tiny), 3 if task == 'classification' else 1
    if (task, size) not in teachers:
        teachers[task, size] = MODELS.build(tiny.compared_members(task, classes)['teacher'])
        train(teachers[task, size], batches, tiny)
    torch.manual_seed(0)  # The student does not depend on which test trains the teacher.
    members = tiny.compared_members(method, classes)
    members['teacher'] = copy.deepcopy(teachers[task, size])
    transfers = tiny.method_settings(method)['transfers']
    if method.startswith('dsd'):
        transfers[0]['weight'] = 10.0  # With 1000, these few steps would only fit the maps.
    return tiny.compared(method, members=members, transfers=transfers), batches


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_training_reduces_the_losses(method, tiny, teachers):
    distiller, batches = distiller_and_batches(method, tiny, teachers)
    first, last = train(distiller, batches, tiny)
    (supervised,) = (key for key in first if 'loss' in key and 'loss_from' not in key)
    # LSKD with DKD prevails and first raises it; by how much depends on the processor.
    if method != 'lskd_dkd_classification':
        # Channel-wise distillation of logits, which prevails in MGD, is blind to their level.
        bound = 0.95 if method == 'mgd_segmentation' else 0.8
        assert last[supervised] < bound * first[supervised]
    assert tiny.optimized(last) < 0.8 * tiny.optimized(first)


@pytest.mark.slow
def test_simkd_student_predicts_the_teachers_classes(tiny, teachers):
    distiller, batches = distiller_and_batches('simkd_classification', tiny, teachers)
    first, _ = train(distiller, batches, tiny)
    _, last = train(distiller, batches, tiny, 1e-3)  # settles the moving means of batch norms
    key = 'student.loss_from_teacher.features'
    assert last[key] < 0.6 * first[key]
    distiller.eval()
    for inputs, samples in batches:
        predictions = distiller(inputs, samples, mode='predict')
        student, teacher = (
            [getattr(sample.members, name).pred_label.item() for sample in predictions]
            for name in ('student', 'teacher')
        )
        assert len(set(teacher)) == 3
        assert student == teacher


# ---- methods for a teacher used between students ---------------------------------------------


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
        'ml_recent': [
            features(B, A, dict(type=MGDLoss)),
            predictions(B, A, dict(type=LSKDLoss, loss=dict(type=DKDLoss))),
            features(A, B, dict(type=PKDLoss), STAGES),
            predictions(A, B, dict(type=DISTLoss)),
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
        'ml_recent': [
            features(B, A, dict(type=MGDLoss), LAST),
            predictions(B, A, dict(type=DKDLoss)),
            features(A, B, dict(type=PKDLoss), [STAGES[0], LAST]),
            predictions(A, B, dict(type=LSKDLoss, loss=dict(type=DISTLoss))),
        ],
        'kdml': [
            features(T, A, dict(type=RegionAffinityLoss), STAGES[1:2]),
            predictions(B, A, dict(type=ChannelWiseLoss)),
            features(T, B, dict(type=PairWiseLoss), 'decode_head.blocks.1'),
            features(A, B, dict(type=AttentionTransferLoss), LAST),
        ],
    },
}


def students(task, setting, tiny, frozen=True):
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
def test_two_methods_between_students_train_only_the_learners(task, setting, tiny):
    distiller = students(task, setting, tiny)
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
        assert moved == {term.transfer.learner}, key
    distiller.zero_grad()
    tiny.optimized(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters())


@pytest.mark.parametrize(('task', 'setting'), [row for row in ROWS if row[1] == 'kdml'])
def test_teacher_may_be_trained_too(task, setting, tiny):
    distiller = students(task, setting, tiny, frozen=False)
    losses = distiller.train()(*tiny.compared_batch(task), mode='loss')
    assert any(key.startswith('teacher.') for key in losses)
    tiny.optimized(losses).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in distiller.parameters())


def test_srrl_between_students_does_not_train_the_peers_classifier(tiny):
    distiller = students('classification', 'ml', tiny).train()
    losses = distiller(*tiny.compared_batch('classification'), mode='loss')
    losses['a.loss_from_b.features'].backward()
    head = distiller.members['b'].head.fc
    assert isinstance(head, nn.Linear)
    assert all(p.requires_grad and p.grad is None for p in head.parameters())
