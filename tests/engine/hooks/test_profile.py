import json
import re

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from mmkdml.engine import ProfileHook
from mmkdml.engine.hooks import profile
from mmkdml.engine.hooks.profile import part_table
from mmkdml.profiling import part
from mmkdml.registry import HOOKS

PARTS = ['loader', 'preprocessing', 'forward', 'backward', 'optimizer', 'other']


class Net(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, inputs, mode):
        return dict(loss=self.layer(inputs).square().mean())


class Classroom(Net):
    def named_members(self):
        return dict(one=self.layer)

    def forward(self, inputs, mode):
        with part('forward one'):
            out = self.layer(inputs)
        with part('transfers'):
            return dict(loss=out.square().mean())


class Steps(Hook):
    """Records the iterations in which the profiler is on."""

    def __init__(self):
        self.recorded = []

    def before_train_iter(self, runner, *_, **__):
        if torch.autograd._profiler_enabled():
            self.recorded.append(runner.iter + 1)


def run(folder, model, samples=12, wrapper=None, **settings):
    steps = Steps()
    runner = Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2,
            dataset=[dict(inputs=torch.ones(64)) for _ in range(samples)],
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=wrapper or dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None),
        custom_hooks=[dict(type='mmkdml.ProfileHook', **settings), steps],
        default_scope='mmengine',
        experiment_name=folder.name,
        log_level='ERROR',
    )
    runner.train()
    return runner, steps.recorded


@pytest.fixture
def logged(monkeypatch):
    """Level and message of all log lines."""
    messages = []
    for level in ('info', 'warning'):
        monkeypatch.setattr(
            MMLogger, level, lambda _, message, *__, level=level: messages.append((level, message))
        )
    return messages


def logged_parts(logged):
    (message,) = [text for _, text in logged if text.startswith('Time of each part')]
    rows = [line.split('|')[1:-1] for line in message.splitlines()[4:-1]]
    return message, {row[0].strip(): [float(x.strip(' %')) for x in row[1:]] for row in rows}


@pytest.mark.parametrize(
    ('model', 'names'),
    [(Net, PARTS), (Classroom, [*PARTS[:2], 'forward one', 'transfers', *PARTS[3:]])],
)
def test_parts_of_the_chosen_iterations_are_logged(tmp_path, logged, model, names, monkeypatch):
    tables = []
    monkeypatch.setattr(
        profile, 'part_table', lambda *args: tables.append(args) or part_table(*args)
    )
    runner, recorded = run(tmp_path, model(), iterations=3, skip=4)
    assert recorded == [5, 6, 7]  # Across the end of the first epoch.
    message, parts = logged_parts(logged)
    assert f'in 3 iterations (trace: {tmp_path}/trace.json)' in message
    assert list(parts) == names
    assert sum(share for _, share in parts.values()) == pytest.approx(100, abs=0.4)
    ((seconds, total, _),) = tables  # A part of less than 0.05 % is logged as 0.
    assert all(value > 0 for value in (*seconds.values(), total - sum(seconds.values())))
    assert runner.iter == 12
    events = json.loads((tmp_path / 'trace.json').read_text())['traceEvents']
    counts = [sum(event.get('name') == f'part: {name}' for event in events) for name in names]
    # step and zero_grad of the optimizer are two events; the rest has no events.
    assert counts[1:-1] == [3] * (len(names) - 3) + [6]


def test_weights_are_the_same_as_without_profiling(tmp_path):
    weights = []
    for number in (1, 100):
        torch.manual_seed(0)
        (tmp_path / str(number)).mkdir()
        runner, _ = run(tmp_path / str(number), Net(), skip=number)
        weights.append(runner.model.layer.weight)
    assert torch.equal(*weights)


def test_methods_are_restored_after_profiling(tmp_path):
    model = Net()
    compiled = model.forward
    model.forward = compiled  # Set on the instance, as mmengine's compile does.
    runner, _ = run(tmp_path, model, iterations=2, skip=2)
    assert vars(model)['forward'] is compiled
    assert 'forward' not in vars(model.data_preprocessor)
    assert not {'backward', 'step', 'zero_grad'} & set(vars(runner.optim_wrapper))
    assert not torch.autograd._profiler_enabled()


def test_several_optimizers_are_one_part(tmp_path, logged):
    class Two(Net):
        def train_step(self, data, optim_wrapper):
            loss = self(self.data_preprocessor(data)['inputs'], 'loss')['loss']
            optim_wrapper['layer'].update_params(loss)
            return dict(loss=loss)

    model = Two()
    wrapper = OptimWrapperDict(layer=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1)))
    run(tmp_path, model, wrapper=wrapper, iterations=1, skip=1)
    assert list(logged_parts(logged)[1]) == PARTS


def test_shorter_run_logs_the_profiled_iterations(tmp_path, logged):
    _, recorded = run(tmp_path, Net(), samples=4, iterations=9, skip=2)
    assert recorded == [3, 4]
    assert 'in 2 iterations' in logged_parts(logged)[0]


def test_run_without_profiled_iterations_warns(tmp_path, logged):
    run(tmp_path, Net(), samples=2, skip=2)
    level, message = logged[-1]
    assert level == 'warning'
    assert 'more than skip=2 iterations, got 2' in message
    assert not (tmp_path / 'trace.json').exists()


def test_only_the_main_process_is_profiled(tmp_path, monkeypatch, logged):
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda *_: 1)
    _, recorded = run(tmp_path, Net(), iterations=2, skip=1)
    assert recorded == []
    assert not (tmp_path / 'trace.json').exists()


@pytest.mark.parametrize('settings', [dict(iterations=0), dict(skip=0)])
def test_arguments_below_one_raise(settings):
    expected = re.escape(', '.join(f'{k}={v}' for k, v in settings.items()))
    with pytest.raises(ValueError, match=f'at least 1, got .*{expected}'):
        HOOKS.build(dict(type='ProfileHook', **settings))


def test_part_table():
    rows = part_table(dict(loader=0.5, backward=1.0), seconds=2.0, iterations=4).splitlines()[3:-1]
    assert [[cell.strip() for cell in row.split('|')[1:-1]] for row in rows] == [
        ['loader', '125.0', '25.0%'],
        ['backward', '250.0', '50.0%'],
        ['other', '125.0', '25.0%'],
    ]


def test_default_iterations_and_skip():
    hook = ProfileHook()
    assert (hook.iterations, hook.skip) == (10, 5)
