import copy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmkdml.engine import CompileMembersHook, compile_members
from mmkdml.models import KnowledgeDistiller
from mmkdml.models.taps import TapRecorder
from mmkdml.registry import MODELS

DEMO = Path(__file__).parents[3] / 'configs' / 'demo' / 'kdml_v3_demo_slices.py'


@pytest.fixture(autouse=True)
def _forget_graphs():
    yield
    torch.compiler.reset()


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return torch.tanh(self.layer(x))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = Block(), Block()

    def forward(self, x):
        return self.second(self.first(x))


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 4)
        self.body = Body()
        self.heads = nn.ModuleList([nn.Sequential(Block(), nn.Tanh()), nn.Linear(4, 2)])

    def forward(self, x):
        return self.heads[1](self.heads[0](self.body(self.stem(x))))


class Backend:
    """Runs graphs unchanged and counts graphs and runs."""

    def __init__(self):
        self.graphs = self.runs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1

        def run(*args):
            self.runs += 1
            return graph(*args)

        return run


@pytest.fixture
def backend():
    return Backend()


@pytest.mark.parametrize(
    ('observed', 'parts'),
    [
        ((), ['body', 'heads.0.0']),
        (('stem',), ['body', 'heads.0.0']),
        (('body',), ['body.first', 'body.second', 'heads.0.0']),
        (('body.second', 'heads.0'), ['body.first', 'heads.0.0']),
        (('body.first.layer', 'heads.0.0'), ['body.second']),
        (('bod',), ['body', 'heads.0.0']),
    ],
)
def test_largest_modules_without_taps_are_compiled(backend, observed, parts):
    classroom = SimpleNamespace(
        named_members=lambda: dict(a=net), observed_modules=dict(a=set(observed))
    )
    net = Net()
    keys, inputs = list(net.state_dict()), torch.randn(5, 3)
    expected = net(inputs)
    assert compile_members(classroom, backend=backend, fullgraph=True) == [f'a.{x}' for x in parts]
    for _ in range(2):
        with TapRecorder(net, set(observed) - {'bod'}) as taps:
            assert torch.equal(net(inputs), expected)
        for name in taps.order:
            assert taps[name].requires_grad
        assert len(taps.order) == len(set(observed) - {'bod'})
    assert (backend.graphs, backend.runs) == (len(parts), 2 * len(parts))
    assert list(net.state_dict()) == keys


def test_each_shape_has_its_graph_and_copies_are_not_compiled(backend):
    net = Net()
    assert compile_members(net, backend=backend) == ['body', 'heads.0.0']
    for number in (5, 3, 5):
        net(torch.randn(number, 3))
    assert (backend.graphs, backend.runs) == (4, 6)
    copy.deepcopy(net)(torch.randn(5, 3))
    assert backend.runs == 6


@pytest.mark.parametrize('wrapped', [False, True])
def test_hook_compiles_once_and_logs(monkeypatch, backend, wrapped):
    net, logged = Net(), []
    monkeypatch.setattr(
        'mmkdml.engine.unwrap.is_model_wrapper', lambda one: one is not net and wrapped
    )
    runner = SimpleNamespace(
        model=SimpleNamespace(module=net) if wrapped else net,
        logger=SimpleNamespace(info=logged.append),
    )
    hook = CompileMembersHook(backend=backend)
    for _ in range(2):
        hook.before_train_epoch(runner)
    assert logged == ['Compiling body, heads.0.0; the first steps are slow']
    net(torch.randn(5, 3))
    assert backend.runs == 2


@pytest.mark.slow
def test_compiled_classroom_computes_the_same(backend):
    """One member is frozen, and no network has a graph break."""
    config = Config.fromfile(DEMO).model
    classroom = KnowledgeDistiller(
        members=dict(zip('ab', config.students, strict=True)),
        transfers=[
            dict(source='a', learner='b', knowledge=kind, weight=1.0)
            for kind in ('predictions', 'features')
        ],
        frozen=dict(a=None),
        input_size=(32, 32),
        data_preprocessor=MODELS.build(config.data_preprocessor),
        fuse_batch_norms=False,  # compiled members are not fused
    ).train()
    inputs = torch.randn(2, 3, 32, 32)
    samples = classroom.task.dummy_samples(2, (32, 32))

    def step():
        classroom.zero_grad()
        losses = classroom(inputs, samples, mode='loss')
        classroom.parse_losses(losses)[0].backward()
        return losses, [parameter.grad.clone() for parameter in classroom.parameters()]

    losses, gradients = step()
    parts = compile_members(classroom, backend=backend, fullgraph=True)
    blocks = [f'backbone.layer{stage}.{place}' for stage in (1, 2, 3, 4) for place in (0, 1)]
    assert parts == [f'{name}.{part}' for name in 'ab' for part in (*blocks, 'neck')]
    ours, own_gradients = step()
    assert backend.runs == len(parts)
    for key, value in losses.items():
        torch.testing.assert_close(ours[key], value)
    for one, other in zip(own_gradients, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_only_selected_members_are_compiled(backend):
    net, other = Net(), Net()
    classroom = SimpleNamespace(
        named_members=lambda: dict(a=net, b=other), observed_modules=dict(a=(), b=())
    )
    runner = SimpleNamespace(model=classroom, logger=SimpleNamespace(info=lambda text: None))
    CompileMembersHook(members=['b'], backend=backend).before_train_epoch(runner)
    net(torch.randn(5, 3))
    assert backend.runs == 0
    other(torch.randn(5, 3))
    assert backend.runs == 2
    with pytest.raises(ValueError, match=r'a, b.*teacher'):
        compile_members(classroom, ['teacher'])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which('g++') is None, reason='inductor requires a C++ compiler')
@pytest.mark.parametrize('frozen', [True, False])
def test_only_the_weights_of_frozen_members_become_constants(frozen, monkeypatch, tmp_path):
    # Cached code may be for other instructions of the processor.
    monkeypatch.setenv('TORCHINDUCTOR_CACHE_DIR', str(tmp_path))

    class Part(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))

        def forward(self, x):
            return self.layers(x)

    member = nn.Sequential(Part()).eval()
    classroom = SimpleNamespace(
        named_members=lambda: dict(teacher=member),
        observed_modules=dict(teacher=()),
        frozen_names=('teacher',) if frozen else (),
    )
    inputs = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = member(inputs)
        assert compile_members(classroom) == ['teacher.0']
        torch.testing.assert_close(member(inputs), expected)
        member[0].layers[1].weight.zero_()
        assert bool(member(inputs).any()) is frozen
