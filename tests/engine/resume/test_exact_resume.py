"""Identical results of resumed runs are tested in test_loops.py."""

import signal
from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import EarlyStoppingHook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmkdml.engine import INTERRUPTED, ExactResumeHook, ResumableIterTrainLoop, ResumableTrainLoop
from mmkdml.models.checkpoints import load_checkpoint_file


def stopped(training, folder, stop, **settings):
    with pytest.raises((SystemExit, training.Crash)):
        training.start(folder, stop, **settings)


def test_checkpoint_records_the_position_in_the_epoch(training, tmp_path):
    stopped(training, tmp_path, ('train', 6, signal.SIGTERM))
    place = load_checkpoint_file(tmp_path / INTERRUPTED)['meta']['place']
    assert place == dict(done=2, batches=4, validated=True)
    stopped(training, tmp_path, ('val', 4, training.Crash))
    place = load_checkpoint_file(tmp_path / 'epoch_1.pth')['meta']['place']
    assert place == dict(done=0, batches=4, validated=False)
    stopped(training, tmp_path, ('val', 4, signal.SIGTERM))
    place = load_checkpoint_file(tmp_path / INTERRUPTED)['meta']['place']
    assert place == dict(done=0, batches=4, validated=True)


@pytest.mark.parametrize(('iteration', 'accumulated'), [(6, False), (7, True)])
def test_accumulated_gradients_are_saved(training, tmp_path, iteration, accumulated):
    stopped(training, tmp_path, ('train', iteration, signal.SIGTERM), accumulate=3)
    checkpoint = load_checkpoint_file(tmp_path / INTERRUPTED)
    assert ('gradients' in checkpoint) is accumulated
    if accumulated:
        buffers = {'norm.running_mean', 'norm.running_var', 'norm.num_batches_tracked'}
        assert checkpoint['gradients'].keys() == checkpoint['state_dict'].keys() - buffers
        assert any(value.any() for value in checkpoint['gradients'].values())


def test_checkpoint_without_position_resumes_at_the_epoch(training, undisturbed, tmp_path):
    stopped(training, tmp_path, ('val', 8, training.Crash))
    path = tmp_path / 'epoch_2.pth'
    checkpoint = torch.load(path, weights_only=False)
    del checkpoint['meta']['place']
    torch.save(checkpoint, path)
    resumed = training.start(tmp_path, None, path, resume=True)
    assert torch.equal(resumed.model.layer.weight, undisturbed()[0].model.layer.weight)
    assert training.checkpoints(tmp_path) == undisturbed()[1]


class OwnLoop(EpochBasedTrainLoop):
    pass


@pytest.mark.parametrize(
    ('kind', 'becomes', 'end'),
    [
        (EpochBasedTrainLoop, ResumableTrainLoop, 'max_epochs'),
        (IterBasedTrainLoop, ResumableIterTrainLoop, 'max_iters'),
        (OwnLoop, OwnLoop, 'max_epochs'),
    ],
)
def test_loop_is_replaced_with_its_settings(undisturbed, kind, becomes, end):
    loader = undisturbed()[0].train_dataloader
    inner = SimpleNamespace(visualizer=SimpleNamespace())
    loop = kind(inner, loader, val_begin=2, val_interval=3, dynamic_intervals=[(5, 1)], **{end: 7})
    runner = SimpleNamespace(_train_loop=loop, seed=1)
    ExactResumeHook().before_run(runner)
    changed = runner._train_loop
    assert type(changed) is becomes
    assert (getattr(changed, end), changed.val_begin, changed.val_interval) == (7, 2, 3)
    assert changed.dynamic_milestones == [0, 5]
    assert changed.dynamic_intervals == [3, 1]
    assert changed.dataloader is loader


def test_run_without_training_builds_no_loop():
    settings = dict(type='EpochBasedTrainLoop', max_epochs=1)
    runner = SimpleNamespace(_train_loop=settings, seed=1)
    ExactResumeHook().before_run(runner)
    assert runner._train_loop is settings


def test_early_stopping_hook_continues_counting(tmp_path, training):
    """The first validation is the best one."""
    counts = []
    for folder, stop in (('undisturbed', None), ('resumed', ('train', 10, signal.SIGTERM))):
        hooks = [EarlyStoppingHook('score', 'less', min_delta=0, patience=2) for _ in range(2)]
        settings = dict(hooks=hooks[:1])
        if stop:
            with pytest.raises(SystemExit):
                training.start(tmp_path / folder, stop, **settings)
            settings.update(
                hooks=hooks[1:], resume=True, load_from=tmp_path / folder / 'interrupted.pth'
            )
        runner = training.start(tmp_path / folder, **settings)
        hook = settings['hooks'][0]
        counts.append((hook.wait_count, hook.best_score, runner.train_loop.stop_training))
    assert counts[0] == counts[1]
    assert counts[0][::2] == (2, True)
