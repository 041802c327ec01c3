"""LossBalanceHook in real trainings: it changes no weights, and its values are logged."""

import json
import random
import uuid
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

# isort: split
from mmengine.hooks import Hook
from mmengine.logging import MessageHub
from mmengine.model import BaseModel, MMDistributedDataParallel
from mmengine.optim import OptimWrapper
from mmengine.visualization import LocalVisBackend, TensorboardVisBackend, Visualizer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from mmkdml.apis import load_config, make_runner
from mmkdml.datasets import convert_lgg, make_demo_data
from mmkdml.engine import CPUAmpOptimWrapper, LossBalanceHook
from mmkdml.experiments.suites.execution.execute import read_curves
from mmkdml.models import Transfer

DEMO = Path(__file__).parents[3] / 'configs' / 'demo' / 'kdml_v3_demo.py'


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    source = make_demo_data(root / 'kaggle_3m', patients=6, slices=4, size=64)
    convert_lgg(source, root / 'splits')
    return root


def train(data, folder, hooks=(), **settings):
    """Train the U-Nets of the demo with dropout; return (weights, random states)."""
    config = load_config(str(DEMO), [], folder)
    for part in ('train', 'val', 'test'):
        config[f'{part}_dataloader'].dataset.update(
            data_root=str(data / 'kaggle_3m'), ann_file=str(data / 'splits' / f'{part}.csv')
        )
    for member in (config.model.teacher, *config.model.students):
        member.decode_head.dropout_ratio = 0.5
    config.train_cfg.update(max_epochs=1, val_interval=5)
    config.train_dataloader.batch_size = 4
    config.default_hooks.logger.interval = 2
    config.optim_wrapper.update(settings.pop('optim_wrapper', {}))
    config.custom_hooks.extend(hooks)
    config.update(experiment_name=uuid.uuid4().hex, **settings)
    runner = make_runner(config)
    runner.train()
    state = [torch.get_rng_state(), np.random.get_state()[1], random.getstate()]
    return runner.model.state_dict(), state


def assert_equal(found, expected):
    (weights, state), (other_weights, other_state) = found, expected
    assert weights.keys() == other_weights.keys()
    assert [key for key in weights if not torch.equal(weights[key], other_weights[key])] == []
    assert torch.equal(state[0], other_state[0])
    assert np.array_equal(state[1], other_state[1])
    assert state[2] == other_state[2]


@pytest.fixture(scope='module')
def watched(tmp_path_factory, data):
    """Folder, weights and random states of a training with the hook and TensorBoard."""
    folder = tmp_path_factory.mktemp('watched')
    visualizer = dict(
        type=Visualizer,
        vis_backends=[dict(type=LocalVisBackend), dict(type=TensorboardVisBackend)],
        name=uuid.uuid4().hex,
    )
    return folder, train(data, folder, [dict(type=LossBalanceHook)], visualizer=visualizer)


def test_training_is_bitwise_identical_with_the_hook(tmp_path, data, watched):
    assert_equal(watched[1], train(data, tmp_path))


@pytest.mark.slow
def test_training_is_bitwise_identical_with_amp_and_accumulation(tmp_path, data):
    wrapper = dict(type=CPUAmpOptimWrapper, accumulative_counts=3)
    hook = dict(type=LossBalanceHook, interval=1)
    assert_equal(
        train(data, tmp_path / 'with', [hook], optim_wrapper=wrapper),
        train(data, tmp_path / 'without', optim_wrapper=wrapper),
    )


def test_values_are_in_tensorboard_and_curves(watched):
    folder, _ = watched
    (events,) = folder.rglob('events.out.tfevents*')
    board = EventAccumulator(str(events)).Reload()
    terms = {
        f'student_{learner}.from_{source}.{kind}'
        for learner, source, kind in (
            (1, 'teacher', 'features'),
            (1, 'student_2', 'predictions'),
            (2, 'teacher', 'predictions'),
            (2, 'student_1', 'features'),
        )
    }
    expected = {f'{what}/{term}' for what in ('gradient', 'gradient_ratio') for term in terms}
    expected |= {f'gradient/student_{learner}.supervised' for learner in (1, 2)}
    tags = [tag for tag in board.Tags()['scalars'] if tag.startswith('gradient')]
    assert set(tags) == expected
    (scalars,) = folder.rglob('scalars.json')
    rows = [json.loads(line) for line in scalars.read_text().splitlines()]
    rows = [row for row in rows if 'loss' in row]
    for tag in tags:
        logged = {event.step: event.value for event in board.Scalars(tag)}
        assert list(logged) == [2, 4]
        assert logged == pytest.approx({row['step']: row[tag] for row in rows}, rel=1e-6)
        assert all(value > 0 for value in logged.values())
    assert expected < set(read_curves(folder)['key'])


@pytest.mark.skipif(torch.cuda.is_available(), reason='gloo is for machines without a GPU')
def test_two_processes_stay_synchronized_and_the_main_one_warns(tmp_path, all_forked):
    all_forked(*((train_in_one_of_two_processes, rank, tmp_path) for rank in (0, 1)))
    first, second = (json.loads((tmp_path / f'{rank}.json').read_text()) for rank in (0, 1))
    for kind, with_hook, without in first['weights']:
        assert with_hook == without, kind
    assert first['weights'] == second['weights']
    # Only the supervised losses depend on the process's share of the batch.
    (predictions, supervised), (other_predictions, other_supervised) = first['last'], second['last']
    assert predictions == other_predictions
    assert supervised != other_supervised
    assert len(first['warnings']) == 2  # One per training.
    assert 'student predictions 0.01 PredictionKLLoss has no effect' in first['warnings'][0]
    assert second['warnings'] == []


class Pair(BaseModel):
    """Supervised losses depend on the batch, the transfer only on the weights."""

    def __init__(self):
        super().__init__()
        self.members = nn.ModuleDict(dict(teacher=nn.Linear(1, 2), student=nn.Linear(1, 2)))
        transfer = Transfer('teacher', 'student', 'predictions', 0.01)
        self.transfer_terms = [SimpleNamespace(key=transfer.key, transfer=transfer)]

    def forward(self, inputs, data_samples=None, mode='tensor'):
        weights = self.members['student'].weight
        return {
            **{f'{name}.loss': x(inputs).square().sum() for name, x in self.members.items()},
            self.transfer_terms[0].key: 0.01 * weights.square().sum(),
        }


def train_in_one_of_two_processes(rank, folder):
    """Train with DistributedDataParallel with and without the hook."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        'gloo',
        init_method=f'file://{folder / "store"}',
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=300),
    )
    warnings, hub = [], MessageHub.get_instance('hub')

    def weights(hook, **settings):
        torch.manual_seed(0)
        model = MMDistributedDataParallel(Pair(), device_ids=None, **settings)
        runner = SimpleNamespace(
            model=model,
            hooks=[],
            iter=0,
            logger=SimpleNamespace(warning=warnings.append, info=None),
            message_hub=hub,
            optim_wrapper=OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.01)),
            train_dataloader=range(3),
        )
        hook.before_train(runner)
        for step in range(3):
            hook.before_train_iter(runner, step)
            data = dict(inputs=torch.full((1, 1), 1.0 + rank))
            outputs = model.train_step(data, runner.optim_wrapper)
            hook.after_train_iter(runner, step, data, outputs)
        hook.after_train_epoch(runner)
        return torch.nn.utils.parameters_to_vector(model.parameters()).tolist()

    compared = [
        (
            kind,
            weights(LossBalanceHook(interval=1, negligible=0.9), **{kind: True}),
            weights(Hook(), **{kind: True}),
        )
        for kind in ('find_unused_parameters', 'static_graph')
    ]
    last = [
        float(hub.get_scalar(f'train/gradient/student.{term}').current())
        for term in ('from_teacher.predictions', 'supervised')
    ]
    found = dict(weights=compared, last=last, warnings=warnings)
    (folder / f'{rank}.json').write_text(json.dumps(found))
