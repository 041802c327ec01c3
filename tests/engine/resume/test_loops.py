import multiprocessing
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import Hook

from mmkdml.apis import newest_checkpoint
from mmkdml.engine import INTERRUPTED, ResumableIterTrainLoop, ResumableTrainLoop, workers
from mmkdml.engine.resume import signals
from mmkdml.models.checkpoints import load_checkpoint_file

LAST = 12
STOPS = [
    ('train', 1),
    ('train', 4),
    ('train', 6),
    ('train', 11),
    ('train', LAST),
    ('val', 4),
    ('val', 8),
]


def stop_and_go(training, folder, stops, **settings):
    """Stop a run at each of the stops, resuming from the newest checkpoint; then finish it."""
    for stop in stops:
        ending = SystemExit if isinstance(stop[2], int) else training.Crash
        newest = newest_checkpoint(folder)
        with pytest.raises(ending) as stopped:
            training.start(folder, stop, newest, resume=newest is not None, **settings)
        if ending is SystemExit:
            assert stopped.value.code == 128 + stop[2]
    newest = newest_checkpoint(folder)
    return training.start(folder, None, newest, resume=newest is not None, **settings)


def differences(ours, theirs, path=''):
    """List the differences between two nested contents."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = ours.keys() | theirs.keys()
        return [
            found
            for key in keys
            for found in differences(ours.get(key), theirs.get(key), f'{path}/{key}')
        ]
    return [] if ours == theirs else [f'{path}: {ours} != {theirs}']


def assert_same(training, undisturbed, folder, runner, **settings):
    expected, files = undisturbed(**settings)
    assert differences(training.checkpoints(folder), files) == []
    assert any(name.startswith('best_score') for name in files)
    for ours, theirs in zip(runner.model.seen[::-1], expected.model.seen[::-1], strict=False):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(('stage', 'iteration'), STOPS)
@pytest.mark.parametrize('how', ['signal', 'killed'])
def test_run_stopped_anywhere_ends_identically(
    training, undisturbed, tmp_path, stage, iteration, how
):
    how = signal.SIGTERM if how == 'signal' else training.Crash
    resumed = stop_and_go(training, tmp_path, [(stage, iteration, how)])
    assert_same(training, undisturbed, tmp_path, resumed)


@pytest.mark.parametrize(
    'settings',
    [
        dict(ema=True),
        dict(accumulate=3),
        dict(workers=2),
        pytest.param(dict(workers=2, persistent=True), marks=pytest.mark.slow),
        dict(by_epoch=False),
        pytest.param(dict(by_epoch=False, workers=2), marks=pytest.mark.slow),
        dict(by_epoch=False, accumulate=3, ema=True),
    ],
    ids=str,
)
def test_run_stopped_often_ends_identically(training, undisturbed, tmp_path, settings):
    stops = [
        ('train', 2, signal.SIGTERM),
        ('train', 3, signal.SIGINT),
        ('val', 4, training.Crash),
        ('train', 7, signal.SIGTERM),
        ('train', 10, training.Crash),
    ]
    resumed = stop_and_go(training, tmp_path, stops, **settings)
    assert_same(training, undisturbed, tmp_path, resumed, **settings)


def test_number_of_workers_does_not_change_the_result(undisturbed):
    assert undisturbed()[1] == undisturbed(workers=2)[1]


def test_samples_differ_between_epochs_and_indices(undisturbed):
    drawn = torch.cat(undisturbed()[0].model.seen)
    assert len(drawn) == 3 * 7
    assert len(drawn[:, 1:].unique()) == 3 * 3 * 7


def test_result_depends_on_the_seed(training, undisturbed, tmp_path):
    same, other = (training.start(tmp_path / str(seed), seed=seed) for seed in (3, 4))
    expected = undisturbed()[0].model.layer.weight
    assert torch.equal(same.model.layer.weight, expected)
    assert not torch.equal(other.model.layer.weight, expected)


def test_resumed_run_keeps_the_seed_of_the_checkpoint(training, undisturbed, tmp_path):
    with pytest.raises(SystemExit):
        training.start(tmp_path, ('train', 6, signal.SIGTERM))
    training.start(tmp_path, None, tmp_path / INTERRUPTED, resume=True, seed=99)
    assert training.checkpoints(tmp_path) == undisturbed()[1]


def test_finished_batches_are_not_loaded_again(training, tmp_path):
    with pytest.raises(SystemExit):
        training.start(tmp_path, ('train', 6, signal.SIGTERM))
    resumed = training.start(tmp_path, None, tmp_path / INTERRUPTED, resume=True)
    assert (
        len(resumed.train_dataloader.dataset.loaded) == 3 + 7
    )  # 4 of the second epoch's 7 before.
    assert not (tmp_path / INTERRUPTED).exists()


def test_load_from_starts_at_the_first_iteration(training, tmp_path):
    with pytest.raises(SystemExit):
        training.start(tmp_path, ('train', 6, signal.SIGTERM))
    runner = training.start(tmp_path / 'new', None, tmp_path / INTERRUPTED, resume=False)
    assert runner.iter == LAST
    assert len(runner.model.seen) == LAST


def test_changed_number_of_batches_warns_and_restarts_the_epoch(training, tmp_path, monkeypatch):
    with pytest.raises(SystemExit):
        training.start(tmp_path, ('train', 6, signal.SIGTERM))
    path = tmp_path / INTERRUPTED
    checkpoint = torch.load(path, weights_only=False)
    checkpoint['meta']['place']['batches'] = 5
    torch.save(checkpoint, path)
    logged = []
    monkeypatch.setattr('mmengine.logging.MMLogger.warning', lambda _, text: logged.append(text))
    runner = training.start(tmp_path, None, path, resume=True)
    assert any('expected 5 batches as before, got 4' in text for text in logged)
    assert runner.iter == 6 + 4 + 4


@pytest.mark.parametrize(
    ('epoch', 'interval', 'begin', 'due'),
    [
        (0, 1, 1, 0),
        (1, 1, 1, 1),
        (1, 2, 1, 0),
        (2, 2, 1, 1),
        (3, 2, 1, 1),
        (1, 1, 2, 0),
        (2, 1, 2, 1),
    ],
)
def test_due_validation_runs_once_on_resume(training, undisturbed, epoch, interval, begin, due):
    runner = undisturbed()[0]
    calls = []
    loop = ResumableTrainLoop(
        SimpleNamespace(val_loop=SimpleNamespace(run=lambda: calls.append(1)), visualizer=runner),
        runner.train_dataloader,
        max_epochs=3,
        val_interval=interval,
        val_begin=begin,
    )
    loop._epoch = epoch
    loop.validate_resumed()
    assert len(calls) == due
    loop.validated = True
    loop.validate_resumed()
    assert len(calls) == due


def test_signal_in_the_last_validation_exits_after_it(training, undisturbed, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        training.start(tmp_path, ('val', LAST, signal.SIGTERM))
    assert stopped.value.code == 143
    assert differences(training.checkpoints(tmp_path), undisturbed()[1]) == []


def test_iteration_loop_resumes_with_a_finite_sampler(training, tmp_path):
    def sampled(folder, stop=None, newest=None):
        return training.start(
            folder,
            stop,
            newest,
            resume=newest is not None,
            by_epoch=False,
            sampler='DefaultSampler',
        )

    uninterrupted, resumed = tmp_path / 'uninterrupted', tmp_path / 'resumed'
    sampled(uninterrupted)
    with pytest.raises(SystemExit):
        sampled(resumed, ('train', 6, signal.SIGTERM))
    sampled(resumed, None, resumed / INTERRUPTED)
    assert training.checkpoints(resumed) == training.checkpoints(uninterrupted)


def test_run_without_the_hook_does_not_resume_exactly(training, tmp_path):
    training.start(tmp_path, hook=False)
    expected = training.checkpoints(tmp_path)['epoch_3.pth']
    other = tmp_path / 'other'
    other.mkdir()
    shutil.copy(tmp_path / 'epoch_2.pth', other)
    training.start(other, None, other / 'epoch_2.pth', resume=True, hook=False)
    assert training.checkpoints(other)['epoch_3.pth']['state_dict'] != expected['state_dict']


class BreakSample(Hook):
    """Make the samples unreadable before the seventh iteration, in the second epoch."""

    def after_train_iter(self, runner, *_, **__):
        if runner.iter == 5:
            runner.train_dataloader.dataset.loaded = None


@pytest.mark.parametrize('by_epoch', [True, False])
def test_failed_batch_saves_a_checkpoint_before(training, undisturbed, tmp_path, by_epoch):
    with pytest.raises(AttributeError):  # Error of the data set.
        training.start(tmp_path, hooks=[dict(type=BreakSample)], by_epoch=by_epoch)
    checkpoint = load_checkpoint_file(tmp_path / INTERRUPTED)
    assert checkpoint['meta']['iter'] == 6
    resumed = training.start(tmp_path, None, tmp_path / INTERRUPTED, resume=True, by_epoch=by_epoch)
    assert_same(training, undisturbed, tmp_path, resumed, by_epoch=by_epoch)


def test_failed_batch_of_several_processes_saves_no_checkpoint(training, tmp_path, monkeypatch):
    monkeypatch.setattr('mmkdml.engine.resume.loops.is_distributed', lambda: True)
    with pytest.raises(AttributeError):
        training.start(tmp_path, hooks=[dict(type=BreakSample)])
    assert not (tmp_path / INTERRUPTED).exists()


class KillWorker(Hook):
    def before_run(self, runner):
        self.others = multiprocessing.active_children()  # of earlier tests

    def after_train_iter(self, runner, *_, **__):
        if runner.iter == 3:  # Before workers start for the next epoch.
            runner.train_dataloader.dataset.most = 2  # a batch
        elif runner.iter == 4:  # First of the epoch: later batches still need the worker.
            children = multiprocessing.active_children()
            os.kill(next(one.pid for one in children if one not in self.others), signal.SIGKILL)


def test_killed_worker_raises_between_steps(training, undisturbed, tmp_path):
    with pytest.raises(
        RuntimeError, match=r'DataLoader worker (\(pid.*\) exited unexpectedly|was lost)'
    ):
        training.start(tmp_path, hooks=[dict(type=KillWorker)], workers=2)
    assert load_checkpoint_file(tmp_path / INTERRUPTED)['meta']['iter'] >= 5
    resumed = training.start(tmp_path, None, tmp_path / INTERRUPTED, resume=True)
    assert_same(training, undisturbed, tmp_path, resumed)


class StallSamples(Hook):
    """From the second epoch on, loading requests a stop and hangs."""

    def __init__(self, part):
        self.part = part

    def after_train_iter(self, runner, *_, **__):
        if runner.iter == 3:  # Before workers start for the next epoch.
            loader = getattr(runner, f'{self.part}_dataloader')
            loader.dataset.stalled = os.getpid()


@pytest.mark.parametrize(
    'settings',
    [
        dict(),
        dict(by_epoch=False, accumulate=3, ema=True),
        dict(workers=2),
        dict(workers=2, persistent=True),
    ],
    ids=str,
)
def test_run_waiting_for_a_batch_stops_at_a_signal(
    training, undisturbed, tmp_path, settings, monkeypatch
):
    monkeypatch.setattr(workers, '_STUCK_SECONDS', 0.0)
    monkeypatch.setattr(signals, 'PATIENCE_SECONDS', 0.0)
    # Persistent workers have their own copy of the training data.
    part = 'val' if settings.get('persistent') else 'train'
    with pytest.raises(SystemExit) as stopped:
        training.start(tmp_path, hooks=[dict(type=StallSamples, part=part)], **settings)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert load_checkpoint_file(tmp_path / INTERRUPTED)['meta']['iter'] == 4
    resumed = training.start(tmp_path, None, tmp_path / INTERRUPTED, resume=True, **settings)
    assert_same(training, undisturbed, tmp_path, resumed, **settings)


def test_interrupted_validation_is_repeated_on_resume(training, undisturbed, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, '_STUCK_SECONDS', 0.0)
    monkeypatch.setattr(signals, 'PATIENCE_SECONDS', 0.0)
    settings = dict(workers=2, ema=True)
    with pytest.raises(SystemExit) as stopped:
        training.start(tmp_path, hooks=[dict(type=StallSamples, part='val')], **settings)
    assert stopped.value.code == 128 + signal.SIGTERM
    saved = load_checkpoint_file(tmp_path / INTERRUPTED)
    assert saved['meta']['place'] == dict(done=0, batches=4, validated=False)
    resumed = training.start(tmp_path, None, tmp_path / INTERRUPTED, resume=True, **settings)
    assert_same(training, undisturbed, tmp_path, resumed, **settings)


@pytest.mark.parametrize('loop', [ResumableTrainLoop, ResumableIterTrainLoop])
def test_zero_augmentations_raise(loop):
    with pytest.raises(ValueError, match='augmentations_per_image: expected at least 1.*got 0'):
        loop(None, None, augmentations_per_image=0)
