"""Resuming needs all weights, including those of EMAHook."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EMAHook

from mmkdml.engine import StrictWeightsHook
from mmkdml.models.checkpoints import load_checkpoint_file

KEY = 'layer.weight'
HOOK = dict(type=StrictWeightsHook)


def edit(path, change, part='state_dict', prefix=''):
    content = load_checkpoint_file(path)
    change(content[part], prefix + KEY)
    torch.save(content, path)


def drop(weights, key):
    del weights[key]


def add(weights, key):
    weights[f'{key}_more'] = torch.zeros(1)


def reshape(weights, key):
    weights[key] = torch.zeros(2, 3)


def poison(weights, key):
    weights[key] = weights[key] * float('nan')


@pytest.fixture(params=[False, True], ids=['plain', 'ema'])
def stopped(request, training, tmp_path):
    training.start(tmp_path, ema=request.param, epochs=1)
    return tmp_path / 'epoch_1.pth', request.param


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (drop, r'resumed.*[(; ]missing: layer.weight'),
        (add, r'resumed.*[(; ]unexpected: layer.weight_more'),
        (reshape, r'resumed.*[(; ]layer.weight: expected shape \(1, 4\), got \(2, 3\)'),
        (poison, r'finite.*[(; ](module.)?layer.weight: 4 NaN'),
    ],
)
def test_resume_with_misfitting_weights_raises(training, stopped, change, message):
    path, ema = stopped
    edit(path, change)
    for part in ('state_dict', 'ema_state_dict')[: 1 + ema]:
        if part == 'ema_state_dict':  # With intact weights in state_dict.
            training.start(path.parent, ema=True, epochs=1)
            edit(path, change, part, 'module.')
        with pytest.raises(ValueError, match=rf'epoch_1.pth.*{message}'):
            training.start(path.parent, None, path, True, ema=ema, epochs=2, hooks=[HOOK])
        assert not (path.parent / 'epoch_2.pth').exists()


def test_resume_with_ema_keeps_weights_and_average(training, undisturbed, tmp_path):
    settings = dict(ema=True, hooks=[])
    training.start(tmp_path, epochs=1, **settings)
    runner = training.start(tmp_path, None, tmp_path / 'epoch_1.pth', True, ema=True, hooks=[HOOK])
    assert runner.epoch == 3
    (average,) = (hook for hook in runner.hooks if isinstance(hook, EMAHook))
    saved = load_checkpoint_file(tmp_path / 'epoch_3.pth')
    assert torch.equal(saved['state_dict'][KEY], average.ema_model.module.state_dict()[KEY])
    assert torch.equal(saved['ema_state_dict'][f'module.{KEY}'], runner.model.state_dict()[KEY])


def loaded(checkpoint, resume, hooks=()):
    """Return the weights of a checkpoint after the hook, and warnings."""
    warnings = []
    runner = SimpleNamespace(
        model=torch.nn.Linear(2, 1),
        hooks=hooks,
        logger=SimpleNamespace(warning=warnings.append),
        _resume=resume,
        _load_from='x.pth',
    )
    StrictWeightsHook().after_load_checkpoint(runner, checkpoint)
    return checkpoint['state_dict'], warnings


def test_resume_without_ema_hook_uses_the_trained_weights():
    average, trained = torch.nn.Linear(2, 1).state_dict(), torch.nn.Linear(2, 1).state_dict()
    ema = {'steps': torch.tensor(3), **{f'module.{key}': one for key, one in trained.items()}}
    checkpoint = dict(state_dict=average, ema_state_dict=ema)
    with_hook, warnings = loaded(dict(checkpoint), True, [EMAHook()])
    assert (with_hook, warnings) == (average, [])
    without, warnings = loaded(dict(checkpoint), True)
    assert without.keys() == trained.keys()
    assert all(without[key] is trained[key] for key in trained)
    assert 'x.pth was saved with EMAHook' in warnings[0]
    assert loaded(dict(checkpoint), False) == (average, [])  # load_from uses the average.


def test_load_from_accepts_partial_weights():
    weight = dict(weight=torch.zeros(1, 2))
    assert loaded(dict(state_dict=weight), False)[0] == weight
    with pytest.raises(ValueError, match=r'x\.pth .* Linear: .* got head\.a, head\.b'):
        loaded(dict(state_dict={'head.a': weight, 'head.b': weight}), False)
    with pytest.raises(ValueError, match=r'x\.pth.*\(weight: 0 NaN and 2 infinite of 2'):
        loaded(dict(state_dict=dict(weight=torch.full((1, 2), torch.inf))), False)
