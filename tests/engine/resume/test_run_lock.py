import json
import multiprocessing
import os
import signal
import socket

import pytest

from mmkdml.engine.resume import run_lock
from mmkdml.engine.resume.run_lock import LOCK, holds_lock, lock_folder, unlock_folder


def hold(folder, ready, end, other_end):
    """Lock like a training whose forked data loader worker outlives it."""
    os.close(other_end)
    lock_folder(folder)
    if os.fork() == 0:
        os.read(end, 1)  # Until the test closes the other end.
        os._exit(0)
    ready.set()
    signal.pause()


@pytest.fixture
def holder(forked, tmp_path):
    ready = multiprocessing.get_context('fork').Event()
    end, other_end = os.pipe()
    (process,) = forked((hold, tmp_path, ready, end, other_end))
    assert ready.wait(300)
    yield process
    process.kill()
    os.close(other_end)
    os.close(end)


def test_folder_locked_by_another_process_raises(holder, tmp_path):
    name = f'process {holder.pid} on {socket.gethostname()}'
    with pytest.raises(ValueError, match=f'{tmp_path} is in use by {name}'):
        lock_folder(tmp_path)
    assert not holds_lock(tmp_path)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_lock_ends_with_its_process(holder, tmp_path, number):
    """Neither its forked workers nor its name in the file keep the lock."""
    os.kill(holder.pid, number)
    holder.join()  # With a timeout, it would wait for the forked worker, too.
    assert json.loads((tmp_path / LOCK).read_text())['process'] == holder.pid
    lock_folder(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())['process'] == os.getpid()
    unlock_folder(tmp_path)


def test_outdated_or_invalid_holder_is_not_named(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, '_READ_SECONDS', 0)
    content = json.loads((tmp_path / LOCK).read_text())
    ended = multiprocessing.get_context('fork').Process(target=int)
    ended.start()
    ended.join()
    for text in (json.dumps(dict(content, process=ended.pid)), '', '[]', '{"host": 1}'):
        (tmp_path / LOCK).write_text(text)
        with pytest.raises(ValueError, match='in use by another process'):
            lock_folder(tmp_path)


def test_folder_is_locked_until_unlocked(tmp_path, all_forked):
    def locked():
        with pytest.raises(ValueError, match=f'process {os.getppid()} '):
            lock_folder(tmp_path)
        assert not holds_lock(tmp_path)

    def free():
        lock_folder(tmp_path)

    link = tmp_path.parent / 'link'
    link.symlink_to(tmp_path)
    lock_folder(tmp_path)
    lock_folder(link)  # The same folder again.
    all_forked((locked,))
    unlock_folder(tmp_path)
    unlock_folder(tmp_path)
    all_forked((free,))


def test_file_system_without_locks_warns(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(run_lock.fcntl, 'lockf', lockf)
    with pytest.warns(UserWarning, match=f'{tmp_path} is not locked.*No locks available'):
        lock_folder(tmp_path)
    assert not holds_lock(tmp_path)


@pytest.mark.parametrize('kind', ['fifo', 'link', 'folder'])
def test_irregular_lock_file_raises(tmp_path, kind):
    path, elsewhere = tmp_path / LOCK, tmp_path / 'mine'
    elsewhere.write_text('mine')
    dict(
        fifo=lambda: os.mkfifo(path), link=lambda: path.symlink_to(elsewhere), folder=path.mkdir
    )[kind]()  # fmt: skip
    with pytest.raises(ValueError, match=f'{path}: expected a regular file'):
        lock_folder(tmp_path)
    assert elsewhere.read_text() == 'mine'
