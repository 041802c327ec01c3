"""Problem and protocol of the peers, and the step of this package."""

import io
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mmkdml.registry import MODELS

PEERS = Path(__file__).parents[2] / 'benchmarks' / 'peer_scripts'


@pytest.fixture
def peers(monkeypatch):
    """Function that runs a peer script and returns its globals."""
    monkeypatch.syspath_prepend(PEERS)
    yield lambda name: runpy.run_path(str(PEERS / f'{name}.py'))
    for name in ('problem', 'serve'):
        sys.modules.pop(name, None)


@pytest.fixture(scope='module')
def problem(tmp_path_factory):
    """Path and content of a problem with two images."""
    path = tmp_path_factory.mktemp('problem') / 'problem.pth'
    runpy.run_path(str(PEERS / 'problem.py'))['write_problem'](path, 2)
    return path, torch.load(path, weights_only=True)


@pytest.mark.parametrize('method', ['kd', 'fitnet'])
def test_first_loss_matches_manual_computation(peers, problem, method):
    path, parts = problem
    networks = MODELS.build(peers('problem')['classroom_config']('fitnet').model).named_members()
    maps, logits = {}, {}
    for name, network in networks.items():
        network.load_state_dict(parts[name])
        network.train(name == 'student')
        layer = network.backbone.layer1
        layer.register_forward_hook(lambda *args, name=name: maps.update({name: args[-1]}))
        pooled = network.backbone(parts['inputs'])[-1].mean((2, 3))
        logits[name] = pooled @ parts[name]['head.fc.weight'].T + parts[name]['head.fc.bias']
    soft = {name: (z / 4).softmax(1) for name, z in logits.items()}
    ratio = soft['teacher'].log() - soft['student'].log()
    expected = F.cross_entropy(logits['student'], parts['labels'])
    expected = expected + 16 * (soft['teacher'] * ratio).sum() / 2
    if method == 'fitnet':
        part = parts['connector']
        projected = F.conv2d(maps['student'], part['conv.weight'], part['conv.bias'])
        means = projected.mean((0, 2, 3), keepdim=True)
        spread = ((projected - means) ** 2).mean((0, 2, 3), keepdim=True)
        hint = ((projected - means) / (spread + 1e-5).sqrt()).relu()
        expected = expected + 100 * ((hint - maps['teacher']) ** 2).mean()
    build = peers('mmkdml_peer')['build']
    assert build(parts, method)() == pytest.approx(expected.item(), rel=1e-5)
    assert build(parts, method, fast=True)() == pytest.approx(expected.item(), rel=1e-2)


@pytest.mark.parametrize('options', [{}, dict(fast=True)])
def test_peer_replies_to_each_line(peers, problem, monkeypatch, capsys, options):
    path, parts = problem
    built = []

    def build(loaded, method, **settings):
        built.append((loaded['inputs'].equal(parts['inputs']), method, settings))
        return iter([0.5, 0.25]).__next__

    monkeypatch.setattr(sys, 'argv', ['x_peer.py', str(path), 'kd', *(f'--{x}' for x in options)])
    monkeypatch.setattr(sys, 'stdin', io.StringIO('step\nstep\n'))
    peers('serve')['serve'](build)
    ready, *replies = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert built == [(True, 'kd', options)]
    assert ready == dict(ready=True)
    assert [reply['loss'] for reply in replies] == [0.5, 0.25]
    # The kernel's count of pages is approximate; two readings of the peak may differ by a little.
    memory = [reply['memory'] for reply in replies]
    assert -16 <= min(memory) <= max(memory) < 10_000, memory
