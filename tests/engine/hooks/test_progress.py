import io
import re
from types import SimpleNamespace

import pytest
import torch

# isort: split
from mmengine.evaluator import Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner

from mmkdml.console import Console
from mmkdml.engine import ProgressHook
from mmkdml.engine.hooks import progress
from mmkdml.engine.hooks.best_scores import print_scores


class Network(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode='loss'):
        value = self.layer(torch.stack(inputs)).mean()
        return dict(loss_a=value**2, loss_b=1 + 0 * value) if mode == 'loss' else [value]


class Samples(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        return dict(inputs=torch.ones(1))


class Scores(Evaluator):
    """Evaluator with the scores 10, 30, 20 of one network."""

    def __init__(self):
        super().__init__([])
        self.scores = iter([10.0, 30.0, 20.0])

    def process(self, **_):
        pass

    def evaluate(self, _):
        return {'model/foreground/IoU': next(self.scores)}


def train(folder, console, by_epoch=True, validations=True):
    loader = dict(
        dataset=Samples(),
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=False),
    )
    length = dict(max_epochs=3) if by_epoch else dict(max_iters=6, val_interval=2)
    runner = Runner(
        model=Network(),
        work_dir=str(folder),
        experiment_name=f'progress_{folder.name}',
        train_dataloader=loader,
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=by_epoch, **length),
        val_cfg=dict(type='ValLoop'),
        val_evaluator=Scores(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.01)),
        param_scheduler=dict(type='StepLR', step_size=1, gamma=0.1, by_epoch=by_epoch),
        default_hooks=dict(
            checkpoint=dict(
                type='CheckpointHook', by_epoch=by_epoch, interval=2,
                save_best='model/foreground/IoU', rule='greater',
            )
        ),
        custom_hooks=[ProgressHook(validations, console)],
    )  # fmt: skip
    with console.live():
        runner.train()
    return console.rich.file.getvalue()


def test_line_per_epoch_and_best_value_without_a_terminal(tmp_path):
    text = train(tmp_path, Console(io.StringIO()))
    assert '\x1b' not in text
    lines = [line for line in text.splitlines() if line.startswith('epoch')]
    assert [line.split()[:2] for line in lines] == [['epoch', f'{n}/3'] for n in (1, 2, 3)]
    assert [re.search(r'lr (\S+)', line)[1] for line in lines] == ['1.0e-02', '1.0e-03', '1.0e-04']
    assert ['left' in line for line in lines] == [True, True, False]
    for line in lines:
        assert 'images/s' in line
        assert 'GB' in line
        # The loss is the sum of its parts.
        total, a, b = map(float, re.findall(r'loss(?:_a|_b)? ([\d.e-]+)', line))
        assert total == pytest.approx(a + b, rel=0.02)
        assert b == 1
    rows = [line.split() for line in text.splitlines() if line.startswith('model ')]
    assert rows == [
        ['model', '10.00', '10.00', '(1)', '*'],
        ['model', '30.00', '30.00', '(2)', '*'],
        ['model', '20.00', '30.00', '(2)'],
    ]
    best = [line for line in text.splitlines() if line.startswith('Best so far')]
    assert ['saved as' in line for line in best] == [True, True, False]
    assert [line.split('_')[-1] for line in best] == ['1.pth', '2.pth', '2.pth']


def test_iteration_based_training(tmp_path):
    text = train(tmp_path, Console(io.StringIO()), by_epoch=False)
    places = re.findall(r'^iteration (\d)/6', text, re.MULTILINE)
    assert places == ['2', '4', '6']
    assert len(re.findall('^model ', text, re.MULTILINE)) == 3
    assert '30.00 (4) *' in text


@pytest.mark.parametrize('by_epoch', [True, False])
def test_without_validations_only_the_best_value_is_printed(tmp_path, by_epoch, monkeypatch):
    text = train(tmp_path, Console(io.StringIO()), by_epoch=by_epoch, validations=False)
    best, end = text.splitlines()
    assert '30.00' in best
    assert end.startswith('Finished in')
    monkeypatch.setattr(progress, 'PLAIN_SECONDS', 0.0)
    assert '/' in train(tmp_path / 'again', Console(io.StringIO()), by_epoch, False)


def test_lines_within_a_long_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, 'PLAIN_SECONDS', 0.0)
    text = train(tmp_path, Console(io.StringIO()))
    assert re.findall(r'^epoch 2/3 step (\d)/2', text, re.MULTILINE) == ['1', '2']


def test_live_line_of_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(progress, '_REFRESH', 0.0)
    monkeypatch.setattr('mmkdml.console.console._REFRESH', 0.0)
    environment = dict(TERM='xterm-256color')
    console = Console(io.StringIO(), force_terminal=True, width=80, _environ=environment)
    text = train(tmp_path, console)
    assert 'epoch 1/3 step 1/2' in text
    assert 'epoch 3/3 step 2/2' in text
    assert 'validation: batch 2 of 2' in text
    assert '\x1b[2K' in text  # live lines are erased
    assert re.search(r'\x1b\[1;32m *30\.00 \(2\) \*\x1b\[0m', text)


@pytest.mark.parametrize('width', [80, 100])
def test_table_fits_and_counts_what_is_left_out(width):
    names = ('a_member_with_a_long_name', 'teacher', 'ensemble')
    measures = [f'measure_{n}' for n in range(9)]
    metrics = {f'{name}/group/{one}': 1.5 for name in names for one in measures}
    metrics['students/diversity/disagreement'] = 0.5
    console = Console(io.StringIO(), width=width)
    hidden = print_scores(console, metrics)
    lines = console.rich.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert hidden == len(metrics) - 3 * lines[0].count('measure')
    assert 'students' not in console.rich.file.getvalue()


def test_epoch_without_remaining_steps_prints_nothing():
    """A run that was stopped after the last step of an epoch resumes at its end."""
    output = io.StringIO()
    runner = SimpleNamespace(
        model=torch.nn.Linear(1, 1), message_hub=SimpleNamespace(runtime_info={}), iter=4,
        max_epochs=2, epoch=0, train_loop=object(), train_dataloader=range(4),
    )  # fmt: skip
    hook = ProgressHook(console=Console(output))
    hook.before_train(runner)
    hook.before_train_epoch(runner)
    hook.after_train_epoch(runner)
    assert output.getvalue() == ''
