import ctypes
import itertools
import multiprocessing
import os
import resource
import signal
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.dataset import pseudo_collate
from torch.utils.data import DataLoader, Dataset, default_collate

from mmkdml.engine import LoaderError, watch_workers, workers
from mmkdml.engine.workers import describe_resources

FULL = 'unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)'


class Tensors(Dataset):
    """Twelve samples; ``act`` is called in the worker for each of them."""

    def __init__(self, act=None, tensors=1, size=1):
        self.act, self.tensors, self.size = act, tensors, size

    def __len__(self):
        return 12

    def __getitem__(self, index):
        extra = self.act() if self.act else None
        tensors = [torch.full((self.size,), float(index)) for _ in range(self.tensors)]
        return tensors if extra is None else [*tensors, extra]


def watched(*args, number=2, collate=pseudo_collate, **settings):
    data = Tensors(*args)
    return watch_workers(
        DataLoader(data, batch_size=2, num_workers=number, collate_fn=collate, **settings)
    )


def load(loader):
    try:
        return [batch[0] for batch in loader]
    except Exception:
        for worker in multiprocessing.active_children():
            worker.kill()  # PyTorch would wait five seconds for each.
        raise


@pytest.mark.parametrize('persistent', [False, True])
def test_working_workers_load_the_same_batches(persistent):
    plain = load(DataLoader(Tensors(), batch_size=2))
    loader = watched(collate=default_collate, persistent_workers=persistent)
    for _ in range(2):
        assert torch.equal(torch.stack(load(loader)), torch.stack(plain))


def full(*_, **__):
    raise RuntimeError(FULL)


@pytest.mark.parametrize('collate', [pseudo_collate, default_collate])
def test_full_shared_memory_is_reported(monkeypatch, collate):
    method = '_share_fd_cpu_' if collate is pseudo_collate else '_new_shared'
    monkeypatch.setattr(torch.UntypedStorage, method, full)
    with pytest.raises(LoaderError, match='DataLoader worker') as failed:
        load(watched(collate=collate))
    message = str(failed.value)
    for fact in (FULL, '/dev/shm has', '--shm-size', 'ulimit -n', 'num_workers=0'):
        assert fact in message


def have_little_shared_memory():
    libc = ctypes.CDLL(None)
    new_namespace, recursive, private = 0x20000, 0x4000, 0x40000
    if (
        libc.unshare(new_namespace)
        or libc.mount(b'none', b'/', None, recursive | private, None)
        or libc.mount(b'tmpfs', b'/dev/shm', b'tmpfs', 0, b'size=1m')
    ):
        return  # Needs root.
    with pytest.raises(LoaderError, match=r'No space left on device .* of 1\.0 MiB free'):
        load(watched(None, 1, 400_000))


@pytest.mark.skipif(sys.platform != 'linux', reason='no namespaces of mounts')
def test_small_shared_memory_is_reported(all_forked):
    all_forked((have_little_shared_memory,))


def lack_handles():
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir('/dev/fd')) + 12,) * 2)
    with pytest.raises(LoaderError, match=r'Too many open files.* files open'):
        load(watched(None, 20))


def test_missing_file_handles_are_reported(all_forked):
    all_forked((lack_handles,))


def test_failed_start_of_workers_is_reported(monkeypatch):
    def fail(*_, **__):
        raise FileNotFoundError(2, 'No such file or directory')  # Without /dev/shm.

    monkeypatch.setattr(multiprocessing.synchronize.SemLock, '__init__', fail)
    with pytest.raises(LoaderError, match='Starting 2 DataLoader workers failed: .*No such file'):
        load(watched())


@pytest.mark.parametrize(
    ('number', 'cause'), [('SIGBUS', 'shared memory in /dev/shm is full'), ('SIGKILL', 'memory')]
)
def test_killed_worker_is_reported(number, cause):
    kill = signal.Signals[number]
    with pytest.raises(LoaderError, match=f'was killed by {number}: .*{cause}') as failed:
        load(watched(lambda: os.kill(os.getpid(), kill)))
    assert ('--shm-size' in str(failed.value)) == (number == 'SIGBUS')


def test_unpicklable_batch_is_reported():
    with pytest.raises(LoaderError, match='pickle') as failed:
        load(watched(lambda: lambda: None))
    assert '--shm-size' not in str(failed.value)


@pytest.mark.parametrize('error', [ConnectionResetError, EOFError])
def test_worker_lost_while_sending_is_reported(monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr(workers._WatchedIterator, '_try_get_data', broken)
    with pytest.raises(RuntimeError, match='DataLoader worker was lost while it sent a batch'):
        load(watched())


@pytest.mark.parametrize('kind', [RuntimeError, ConnectionError, FileNotFoundError])
def test_data_set_errors_are_not_changed(kind):
    def fail():
        raise kind('image_7.png is broken')

    with pytest.raises(kind, match=r'image_7.png') as failed:
        load(watched(fail))
    assert type(failed.value) is kind


def test_hanging_workers_raise_after_the_timeout(monkeypatch):
    logged = []
    monkeypatch.setattr(workers, 'WARN_SECONDS', 0.01)
    monkeypatch.setattr(workers, 'print_log', lambda text, *_, **__: logged.append(text))
    loader = watched(signal.pause, timeout=0.1)
    batches = iter(loader)
    processes = batches._workers
    with pytest.raises(
        LoaderError, match=r'worker 0 \(pid \d+\), 1 .* within 0\.1 s.*increase timeout'
    ):
        next(batches)
    assert 'giving up after 0.1 s' in logged[0]
    for process in processes:
        process.join(60)
        assert process.exitcode == -signal.SIGKILL


def test_timeout_applies_to_each_batch(monkeypatch):
    clock, late = itertools.count(step=2.0), itertools.cycle([True, False])
    monkeypatch.setattr(workers, 'time', SimpleNamespace(monotonic=lambda: next(clock)))
    get = workers._WatchedIterator._try_get_data

    def try_get(iterator, timeout):
        return (False, None) if next(late) else get(iterator, 600)

    monkeypatch.setattr(workers._WatchedIterator, '_try_get_data', try_get)
    assert len(load(watched(number=1, timeout=3))) == 6
    assert next(clock) > 6 * 3


def test_default_timeout(monkeypatch):
    assert workers.DEFAULT_TIMEOUT >= 600  # Loading from network drives can take minutes.
    monkeypatch.setattr(workers, 'DEFAULT_TIMEOUT', 0.1)
    with pytest.raises(LoaderError, match=r'within 0\.1 s'):
        load(watched(signal.pause))


def test_timeout_without_workers_is_ignored():
    assert len(load(watched(number=0, timeout=5))) == 6


def test_subclasses_of_dataloader_are_not_changed():
    class Own(DataLoader):
        pass

    loader = Own(Tensors(), num_workers=1)
    assert watch_workers(loader) is loader
    assert type(loader) is Own
    assert loader.worker_init_fn is None


def test_watching_twice_has_no_effect():
    loader = watched()
    start = loader.worker_init_fn
    assert watch_workers(loader).worker_init_fn is start


def test_resources_contain_limits():
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert f'of at most {limit} files open' in describe_resources()
