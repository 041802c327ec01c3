"""Members of classrooms that run with fused batch normalizations."""

import copy
import json

import pytest
import torch
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import MODELS
from torch import nn

from mmkdml.weight_checks import FROZEN_RECORD


@pytest.fixture
def norms_run(monkeypatch):
    """Return a list of the 2D batch normalizations in eval mode that have run."""
    run = []
    forward = nn.BatchNorm2d.forward

    def counted(norm, x):
        if not norm.training:
            run.append(norm)
        return forward(norm, x)

    monkeypatch.setattr(nn.BatchNorm2d, 'forward', counted)
    return run


@pytest.fixture
def teacher_file(task, tmp_path):
    teacher = MODELS.build(task.teacher())
    for norm in teacher.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.uniform_(norm.running_mean, -1, 1)
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=teacher.state_dict(), meta={}), path)
    return str(path)


def classroom(tiny, task, teacher_file, **settings):
    torch.manual_seed(0)
    transfers = [('predictions', 1.0), ('features', 1.0)]
    return tiny.pair(task, transfers, frozen=dict(teacher=teacher_file), **settings)


def losses(distiller, task):
    logged = distiller.train().parse_losses(distiller(*task.batch(), mode='loss'))[1]
    return {key: value.item() for key, value in logged.items()}


def test_frozen_teacher_is_fused_with_equal_losses(tiny, task, teacher_file, norms_run):
    plain = losses(classroom(tiny, task, teacher_file, fuse_batch_norms=False), task)
    unfused = len(norms_run)
    distiller = classroom(tiny, task, teacher_file)
    fused = losses(distiller, task)  # follows the data once
    norms_run.clear()
    losses(distiller, task)
    assert len(norms_run) < unfused
    assert fused == pytest.approx(plain, rel=1e-5)


def test_same_training_gives_the_same_weights(tiny, task, teacher_file):
    states = [tiny.train(classroom(tiny, task, teacher_file), [task.batch()] * 2) for _ in range(2)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], value) for key, value in states[1].items())


def test_trained_members_predict_fused_with_their_present_weights(tiny, task, norms_run):
    torch.manual_seed(0)
    distiller = tiny.pair(task, [('predictions', 1.0)])
    average = ExponentialMovingAverage(distiller, momentum=0.5)
    inputs, samples = task.batch()

    def predicted(model, fuse):
        model._copies.enabled = fuse
        model.eval()
        norms_run.clear()
        with torch.no_grad():
            model.predict(inputs, copy.deepcopy(samples))
            first = len(norms_run)
            results = model.predict(inputs, copy.deepcopy(samples))
        ran = len(norms_run) - first
        return [task_values(one) for sample in results for one in members(sample)], ran

    def members(sample):
        return [sample.members.teacher, sample.members.student]

    keys = []
    for _ in range(2):
        tiny.train(distiller, [task.batch()])
        average.update_parameters(distiller)
        for model in (distiller, average.module):
            (fused, few), (plain, all_norms) = predicted(model, True), predicted(model, False)
            assert few < all_norms
            torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
        keys.append(set(distiller.state_dict()))
        assert not any('_copies' in key for key in keys[-1])
    assert keys[0] == keys[1]


def task_values(sample):
    """Return the scores of a sample, of detectors the sorted ones, which have no fixed number."""
    values = [
        getattr(sample, 'pred_score', None),
        getattr(getattr(sample, 'seg_logits', None), 'data', None),
    ]
    return [value for value in values if value is not None]


def test_copies_are_freed_when_training_goes_on(tiny, task):
    distiller = tiny.pair(task, [('predictions', 1.0)])
    inputs, samples = task.batch()
    distiller.eval()
    with torch.no_grad():
        distiller.predict(inputs, samples)
    entries = distiller._copies._entries.values()
    assert any(entry.copy is not None for entry in entries)
    distiller.train()
    assert all(entry.copy is None for entry in entries)


def test_checkpoint_of_an_earlier_version_keeps_its_numbers(tiny, task, teacher_file):
    distiller = classroom(tiny, task, teacher_file)
    state = distiller.state_dict()
    record = json.loads(bytes(state[FROZEN_RECORD].tolist()))
    assert record['teacher']['fused'] is True
    other = classroom(tiny, task, teacher_file)
    other.load_state_dict(copy.deepcopy(state))
    assert other._frozen.copies.enabled
    del record['teacher']['fused']
    state[FROZEN_RECORD] = torch.tensor(list(json.dumps(record).encode()), dtype=torch.uint8)
    other.load_state_dict(state)
    plain = classroom(tiny, task, teacher_file, fuse_batch_norms=False)
    assert losses(other, task) == losses(plain, task)
    again = json.loads(bytes(other.state_dict()[FROZEN_RECORD].tolist()))
    assert again['teacher']['fused'] is False


def test_frozen_teacher_in_mixed_precision(tiny, task, teacher_file, norms_run):
    inputs, samples = task.batch()
    plain = classroom(tiny, task, teacher_file, fuse_batch_norms=False).train()
    expected = plain.forward_frozen('teacher', inputs, samples)[0].logits.float()
    fused = classroom(tiny, task, teacher_file).train()
    with torch.autocast('cpu', torch.bfloat16):
        fused.forward_frozen('teacher', inputs, samples)
        norms_run.clear()
        logits = fused.forward_frozen('teacher', inputs, samples)[0].logits
        few = len(norms_run)
        plain.forward_frozen('teacher', inputs, samples)
    assert few < len(norms_run) - few
    error = (logits.float() - expected).abs().max() / expected.abs().max()
    assert error < 0.1  # bfloat16 has 8 bits
