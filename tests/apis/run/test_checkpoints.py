import os

import pytest
import torch

from mmkdml.apis import newest_checkpoint


def save(path, epoch=0, iteration=0):
    torch.save(dict(state_dict={}, meta=dict(epoch=epoch, iter=iteration)), path)


def test_newest_checkpoint_has_the_most_iterations(tmp_path):
    assert newest_checkpoint(tmp_path) is None
    save(tmp_path / 'epoch_2.pth', 2, 8)
    save(tmp_path / 'best_x_epoch_3.pth', 3, 12)
    assert newest_checkpoint(tmp_path).name == 'epoch_2.pth'
    for name, iteration, newest in (('interrupted', 7, 'epoch_2'), ('interrupted', 9, None)):
        save(tmp_path / f'{name}.pth', 1, iteration)
        assert newest_checkpoint(str(tmp_path)).stem == (newest or name)
    save(tmp_path / 'iter_10.pth', 2, 10)
    save(tmp_path / 'iter_9.pth', 2, 9)
    assert newest_checkpoint(tmp_path).stem == 'iter_10'
    # After the same iteration, the epoch is over in one of them.
    save(tmp_path / 'interrupted.pth', 2, 12)
    save(tmp_path / 'epoch_3.pth', 3, 12)
    assert newest_checkpoint(tmp_path).stem == 'epoch_3'
    # It was saved later, because a new epoch_3.pth removes it.
    save(tmp_path / 'interrupted.pth', 3, 12)
    assert newest_checkpoint(tmp_path).stem == 'interrupted'


@pytest.mark.parametrize('kind', ['fifo', 'folder', 'link', 'dangling', 'device'])
@pytest.mark.parametrize('name', ['epoch_3.pth', 'iter_30.pth', 'interrupted.pth'])
def test_only_regular_files_are_opened(tmp_path, capsys, kind, name):
    """Opening a FIFO would block."""
    save(tmp_path / 'epoch_2.pth', 2, 8)
    save(tmp_path / 'elsewhere', 9, 90)
    path = tmp_path / name
    if kind == 'fifo':
        os.mkfifo(path)
    elif kind == 'folder':
        path.mkdir()
    else:
        targets = dict(link=tmp_path / 'elsewhere', dangling='nowhere', device='/dev/zero')
        path.symlink_to(targets[kind])
    assert newest_checkpoint(tmp_path) == tmp_path / 'epoch_2.pth'
    printed = capsys.readouterr().err
    assert f'{path} is skipped: expected a regular file, got a ' in printed
    assert dict(fifo='special file', folder='folder').get(kind, 'link to') in printed
