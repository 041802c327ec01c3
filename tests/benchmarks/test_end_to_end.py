import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from benchmarks import end_to_end
from benchmarks.end_to_end import RunSpeed, format_runs, measure_runs

CONFIGS = Path(__file__).parents[2] / 'configs'


@pytest.fixture
def config(slices):
    config = Config.fromfile(CONFIGS / 'demo' / 'kdml_v3_demo.py')
    config.train_dataloader.dataset.update(data_root=str(slices[0]), ann_file=str(slices[1]))
    config.train_dataloader.batch_size = 2
    return config


def test_classroom_and_members_train_on_the_same_batches(config, monkeypatch):
    config.model.update(mode='kd_off', teacher_checkpoint='gone.pth')
    config.model.weights.gamma = None
    # Only the hooks of the classroom seed the augmentation.
    del config.train_dataloader.dataset.pipeline[3]
    runs = []
    train = Runner.train

    def recorded(runner):
        seen, start = [], {}

        def record(_, __, out):
            if not seen:
                start.update(copy.deepcopy(runner.model.state_dict()))
            seen.append(out['inputs'].sum().item())

        runner.model.data_preprocessor.register_forward_hook(record)
        train(runner)
        end = runner.model.state_dict()
        changed = [name for name, value in end.items() if not torch.equal(value, start[name])]
        hooks = {type(hook).__name__ for hook in runner.hooks}
        runs.append((seen, {name.split('.')[1] for name in changed}, hooks))

    monkeypatch.setattr(Runner, 'train', recorded)
    monkeypatch.setattr(end_to_end, 'WARM_UP', 1)
    settings = config.to_dict()
    speeds = measure_runs(config, iterations=2, rounds=1)
    assert config.to_dict() == settings
    assert list(speeds) == ['classroom', 'teacher', 'student_1', 'student_2']
    assert all(x.images == pytest.approx(2 / x.batch_seconds) for x in speeds.values())
    assert all(x.batch_seconds > 0 for x in speeds.values())
    images, changed, hooks = zip(*runs, strict=True)
    assert len(images[0]) == 3
    assert images == (pytest.approx(images[0]),) * 4
    assert changed[0] == {'student_1', 'student_2'}
    assert changed[1] == set()  # neither weights nor statistics of a frozen teacher change
    assert all(changed[2:])
    assert 'ExactResumeHook' in hooks[0]
    assert 'ExactResumeHook' not in set().union(*hooks[1:])
    assert not any('SafeCheckpointHook' in one for one in hooks)


def test_runs_are_interleaved(config, monkeypatch):
    seconds = dict(classroom=[6.0, 8.0, 7.0], teacher=[3.0, 3.0, 9.0])
    seconds |= dict(student_1=[1.0] * 3, student_2=[2.0] * 3)
    turns = []

    def run(_, name, iterations):
        turns.append(name)
        return iterations * seconds[name][turns.count(name) - 1]

    monkeypatch.setattr(end_to_end, '_run', run)
    speeds = measure_runs(config, iterations=4, rounds=3)
    assert {name: x.batch_seconds for name, x in speeds.items()} == dict(
        classroom=7.0, teacher=3.0, student_1=1.0, student_2=2.0
    )
    assert turns == list(seconds) * 3


@pytest.mark.slow
def test_member_run_has_no_discriminator_and_stops_its_workers(config, monkeypatch):
    config.optim_wrapper = dict(
        constructor='DiscriminatorOptimWrapperConstructor',
        optimizer=dict(type='Adam', lr=1e-3),
        discriminator_optimizer=dict(type='Adam', lr=1e-3),
    )
    config.train_dataloader.update(num_workers=1, persistent_workers=True)
    monkeypatch.setattr(end_to_end, 'WARM_UP', 1)
    assert end_to_end._run(config, 'student_1', 1) > 0
    assert not torch.multiprocessing.active_children()


def test_invalid_numbers_or_baseline_raise(config):
    for numbers in ((0, 1), (1, 0)):
        with pytest.raises(ValueError, match=f'at least 1, got {numbers[0]} and {numbers[1]}'):
            measure_runs(config, *numbers)
    baseline = Config.fromfile(CONFIGS / 'study' / 'lgg64_student.py')
    with pytest.raises(TypeError, match='expected a classroom, got a single network'):
        measure_runs(baseline, 1, 1)


def test_format_runs(cells_of):
    speeds = dict(
        classroom=RunSpeed(0.33, 8 / 0.33), teacher=RunSpeed(0.2, 40.0), student=RunSpeed(0.1, 80.0)
    )
    assert cells_of(format_runs(speeds))[1:] == [
        ['teacher', '200.0', '40.0'],
        ['student', '100.0', '80.0'],
        ['sum of the members', '300.0', '26.7'],
        ['classroom', '330.0', '24.2'],
        ['ratio', '1.100', '0.909'],
    ]
