import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook

from mmkdml.apis import newest_checkpoint
from mmkdml.engine import INTERRUPTED
from mmkdml.engine.resume.run_lock import lock_folder, unlock_folder
from mmkdml.models.checkpoints import load_checkpoint_file, resolve_checkpoint


@pytest.fixture
def written(monkeypatch):
    """Name of each written file, and the other checkpoints in its folder at that moment."""
    found = []
    replace = os.replace

    def watched(part, path):
        names = {one.name for one in Path(path).parent.glob('*.pth')}
        found.append((Path(path).name, names - {Path(path).name}))
        replace(part, path)

    monkeypatch.setattr(os, 'replace', watched)
    return found


def test_old_checkpoint_is_removed_after_the_new_one_is_written(training, tmp_path, written):
    training.start(tmp_path, max_keep_ckpts=1, save_best=None)
    assert written == [
        ('epoch_1.pth', set()),
        ('epoch_2.pth', {'epoch_1.pth'}),
        ('epoch_3.pth', {'epoch_2.pth'}),
    ]
    assert [path.name for path in tmp_path.glob('*.pth')] == ['epoch_3.pth']


def test_old_best_checkpoint_is_removed_after_the_new_one_is_written(training, tmp_path, written):
    training.start(tmp_path, max_keep_ckpts=1)
    for name, others in written:
        if name.startswith('best') and name != 'best_score_epoch_1.pth':
            assert any(other.startswith('best') for other in others)
    assert sum(name.startswith('best') for name, _ in written) > 1
    assert len([*tmp_path.glob('best_*')]) == 1


# Calls for an epoch's checkpoint, the best one, and the epoch's again; each also syncs its folder.
@pytest.mark.parametrize(
    ('call', 'first'), [('fsync', 3), ('fsync', 7), ('replace', 2), ('replace', 4)]
)
def test_full_disk_keeps_the_previous_checkpoint(
    training, undisturbed, tmp_path, monkeypatch, call, first
):
    count = iter(range(1, 100))
    real = getattr(os, call)

    def full(*args):
        if next(count) >= first:
            raise OSError(28, 'No space left on device')
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(
            OSError, match=r'No space left on device \(.* file is unchanged\): .*\.pth'
        ):
            training.start(tmp_path)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    for path in tmp_path.glob('*.pth'):
        load_checkpoint_file(path)
    assert not [*tmp_path.glob('.*.part')]
    training.start(tmp_path, None, newest, resume=True)
    assert training.checkpoints(tmp_path) == undisturbed()[1]


@pytest.mark.parametrize('locked', [True, False])
def test_partial_files_are_removed_in_a_locked_folder(training, tmp_path, locked):
    """In an unlocked folder they are kept, because another process may be writing them."""
    (tmp_path / '.epoch_2.pth.123.part').write_bytes(b'half')
    (tmp_path / '.mine').write_bytes(b'')
    if locked:
        lock_folder(tmp_path)
    training.start(tmp_path)
    unlock_folder(tmp_path)
    assert (tmp_path / '.epoch_2.pth.123.part').exists() is not locked
    assert (tmp_path / '.mine').exists()


def test_links_are_replaced_and_not_followed(training, tmp_path):
    mine = tmp_path / 'mine'
    mine.write_text('mine')
    for name in ('last_checkpoint', 'epoch_1.pth', 'interrupted.pth'):
        (tmp_path / name).symlink_to(mine)
    with pytest.warns(UserWarning, match='last_checkpoint is a link to .* and is replaced'):
        training.start(tmp_path, max_keep_ckpts=9)
    assert mine.read_text() == 'mine'
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'epoch_3.pth')
    assert not (tmp_path / 'epoch_1.pth').is_symlink()


def test_folder_named_interrupted_pth_is_kept(training, tmp_path):
    (tmp_path / 'interrupted.pth').mkdir()
    training.start(tmp_path)
    assert (tmp_path / 'interrupted.pth').is_dir()


@pytest.mark.parametrize('save_best', ['score', ['score', 'other']])
def test_run_in_a_copied_folder_keeps_the_original_best(training, tmp_path, save_best, monkeypatch):
    monkeypatch.setattr(
        'mmengine.evaluator.Evaluator.evaluate',
        lambda self, size: dict(score=next(scores), other=next(scores)),
    )
    scores = iter(range(100))
    with pytest.raises(training.Crash):
        training.start(tmp_path / 'a', ('train', 6, training.Crash), save_best=save_best)
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')
    before = sorted(path.name for path in (tmp_path / 'a').glob('best_*'))
    training.start(
        tmp_path / 'b', None, tmp_path / 'b' / 'epoch_1.pth', resume=True, save_best=save_best
    )
    assert sorted(path.name for path in (tmp_path / 'a').glob('best_*')) == before
    after = sorted(path.name for path in (tmp_path / 'b').glob('best_*'))
    assert len(after) == len(before)
    assert not {*before} & {*after}


class NumPyScore:
    """Metric with a NumPy scalar as its score, like MMSegmentation's IoUMetric."""

    dataset_meta = None

    def process(self, data_batch, data_samples):
        pass

    def evaluate(self, size):
        return dict(score=np.float32(0.5), other=np.float32(0.25))


class AddToCheckpoint(Hook):
    def __init__(self, value):
        self.value = value

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['mine'] = self.value


def test_numpy_scalars_are_converted(training, tmp_path, monkeypatch):
    monkeypatch.setattr(
        'mmengine.evaluator.Evaluator.evaluate', lambda self, size: NumPyScore().evaluate(size)
    )
    hooks = [dict(type=AddToCheckpoint, value=dict(state=[np.int16(3), np.float32(0.5)]))]
    with pytest.raises(SystemExit):
        training.start(tmp_path, ('train', 6, signal.SIGTERM), hooks=hooks)
    for name in ('epoch_1.pth', 'best_score_epoch_1.pth', INTERRUPTED):
        content = torch.load(tmp_path / name, weights_only=False)
        info = content['message_hub']['runtime_info']
        assert (info['best_score'], type(info['best_score'])) == (0.5, float)
        assert [type(one) for one in content['mine']['state']] == [int, float]


@pytest.mark.parametrize('how', ['epoch', 'interrupted'])
def test_unreadable_first_checkpoint_raises(training, tmp_path, how):
    hooks = [dict(type=AddToCheckpoint, value=Path('a'))]
    stop = ('train', 2, signal.SIGTERM) if how == 'interrupted' else None
    with pytest.raises(ValueError, match=rf'{how}\S*\.pth is not a valid checkpoint: .*PosixPath'):
        training.start(tmp_path, stop, hooks=hooks)
    names = [path.name for path in tmp_path.glob('*.pth')]
    assert names == ['epoch_1.pth' if how == 'epoch' else INTERRUPTED]


def test_only_the_first_checkpoint_of_a_run_is_verified(training, tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr('mmkdml.engine.resume.checkpoint_files.read_checkpoint', read.append)
    training.start(tmp_path / 'a')
    training.start(tmp_path / 'b', epochs=1)
    assert [str(path) for path in read] == [
        str(tmp_path / run / 'epoch_1.pth') for run in ('a', 'b')
    ]


@pytest.mark.parametrize('rule', ['greater', 'less'])
def test_best_checkpoint_is_chosen_by_score_not_by_time(training, tmp_path, monkeypatch, rule):
    """There are two best checkpoints if a run is killed between writing and removing."""
    scores = iter([0.5, 0.4, 0.6] if rule == 'greater' else [0.5, 0.6, 0.4])
    monkeypatch.setattr(
        'mmengine.evaluator.Evaluator.evaluate', lambda self, size: dict(score=next(scores))
    )
    monkeypatch.setattr(
        'mmkdml.engine.resume.checkpoint_files.AtomicFileBackend.remove_old', lambda *_: 0
    )
    training.start(tmp_path, rule=rule)
    names = [path.name for path in sorted(tmp_path.glob('best_*'))]
    assert names == ['best_score_epoch_1.pth', 'best_score_epoch_3.pth']
    for newest in names:
        for name in names:
            os.utime(tmp_path / name, (100 + (name == newest), 100 + (name == newest)))
        assert resolve_checkpoint(tmp_path).name == names[1]
