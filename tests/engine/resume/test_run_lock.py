import json
import multiprocessing
import os
import signal
import socket
import time

import pytest

from mmkdml.engine.resume import run_lock
from mmkdml.engine.resume.run_lock import LOCK, holds_lock, lock_folder, unlock_folder


def hold(folder, ready):
    """Like a training with a data loader worker, which is forked and outlives it for a while."""
    lock_folder(folder)
    if os.fork() == 0:
        handle, _ = run_lock._held[folder.resolve()]
        os.closerange(0, handle)  # else the test would wait for it
        os.closerange(handle + 1, 1024)
        time.sleep(10)
        os._exit(0)
    ready.set()
    time.sleep(600)


@pytest.fixture
def holder(forked, tmp_path):
    ready = multiprocessing.get_context('fork').Event()
    (process,) = forked((hold, tmp_path, ready))
    assert ready.wait(300)
    yield process
    process.kill()


def test_two_processes_do_not_train_in_one_folder(holder, tmp_path):
    with pytest.raises(ValueError, match=f'{tmp_path} is in use') as refused:
        lock_folder(tmp_path)
    assert f'process {holder.pid} on {socket.gethostname()}' in str(refused.value)
    assert not holds_lock(tmp_path)


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_ends_with_its_process(holder, tmp_path, number):
    """Also while forked workers of it live, and the file still names it."""
    os.kill(holder.pid, number)
    holder.join(300)
    assert json.loads((tmp_path / LOCK).read_text())['process'] == holder.pid
    lock_folder(tmp_path)
    assert json.loads((tmp_path / LOCK).read_text())['process'] == os.getpid()
    unlock_folder(tmp_path)


def test_an_outdated_name_is_not_told(holder, tmp_path, monkeypatch):
    monkeypatch.setattr(run_lock, '_READ_SECONDS', 0)
    content = json.loads((tmp_path / LOCK).read_text())
    ended = multiprocessing.get_context('fork').Process(target=int)
    ended.start()
    ended.join()
    for text in (json.dumps(dict(content, process=ended.pid)), '', '[]', '{"host": 1}'):
        (tmp_path / LOCK).write_text(text)
        with pytest.raises(ValueError, match='another process trains there'):
            lock_folder(tmp_path)


def test_a_folder_is_locked_until_it_is_unlocked(tmp_path, all_forked):
    def refused():
        with pytest.raises(ValueError, match=f'process {os.getppid()} '):
            lock_folder(tmp_path)
        assert not holds_lock(tmp_path)

    def free():
        lock_folder(tmp_path)

    link = tmp_path.parent / 'link'
    link.symlink_to(tmp_path)
    lock_folder(tmp_path)
    lock_folder(link)  # once more, under another name
    all_forked((refused,))
    unlock_folder(tmp_path)
    unlock_folder(tmp_path)
    all_forked((free,))


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def lockf(*_):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(run_lock.fcntl, 'lockf', lockf)
    with pytest.warns(UserWarning, match=f'{tmp_path} is not locked.*No locks available'):
        lock_folder(tmp_path)
    assert not holds_lock(tmp_path)


@pytest.mark.parametrize('kind', ['fifo', 'link', 'folder'])
def test_a_lock_is_a_regular_file(tmp_path, kind):
    path, elsewhere = tmp_path / LOCK, tmp_path / 'mine'
    elsewhere.write_text('mine')
    dict(
        fifo=lambda: os.mkfifo(path), link=lambda: path.symlink_to(elsewhere), folder=path.mkdir
    )[kind]()  # fmt: skip
    with pytest.raises(ValueError, match=f'{path}: expected a regular file'):
        lock_folder(tmp_path)
    assert elsewhere.read_text() == 'mine'
