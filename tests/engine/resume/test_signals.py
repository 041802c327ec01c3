import signal
import subprocess
import threading

import pytest
from torch.utils.data import DataLoader

from mmkdml.engine.resume import signals
from mmkdml.engine.resume.signals import (
    StopRequested,
    StopSignals,
    disable_sigchld_handler,
    shield_workers,
)


def test_first_signal_is_recorded():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        assert signals.requested() == 0
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # Its echo.
        assert signals.requested() == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_second_signal_takes_effect_immediately(monkeypatch):
    monkeypatch.setattr(signals, 'ECHO_SECONDS', -1.0)
    with StopSignals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.requested() == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_other_threads_record_no_signals():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignals() as signals:
            found.append((signals.requested(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, before)]


def test_signal_of_one_process_is_returned_in_all(monkeypatch):
    def reduce(tensor, how):
        assert how == 'max'
        tensor.fill_(max(int(tensor), signal.SIGTERM))

    monkeypatch.setattr(signals, 'is_distributed', lambda: True)
    monkeypatch.setattr(signals, 'all_reduce', reduce)
    assert StopSignals().requested() == signal.SIGTERM


def send(number, process):
    """Send a signal from a process that is not the receiver's parent."""
    subprocess.run(['kill', f'-{number}', str(process)], check=True)


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='needs sigwaitinfo')
def test_workers_end_only_at_signals_of_their_parent():
    started = []
    loader = DataLoader(range(40), num_workers=1, worker_init_fn=started.append)
    shield_workers(loader)
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        send(number, worker.pid)
    assert [batch.item() for batch in batches] == [*range(1, 40)]
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(300)
    assert worker.exitcode == 0


@pytest.fixture
def on_child():
    """Get the current handler of SIGCHLD; restore it after the test."""
    before = signal.getsignal(signal.SIGCHLD)
    yield lambda: signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, before)


def test_only_pytorchs_sigchld_handler_is_disabled(on_child):
    def own(*_):
        """Handler of a program that uses this package."""

    def pytorchs(*_):
        raise RuntimeError('DataLoader worker is killed')

    pytorchs.__module__ = 'torch.utils.data._utils.signal_handling'
    for handler, left in ((own, own), (pytorchs, signal.SIG_DFL), (signal.SIG_IGN, signal.SIG_IGN)):
        signal.signal(signal.SIGCHLD, handler)
        disable_sigchld_handler()
        assert on_child() == left


def test_sigchld_handler_is_kept_in_other_threads(on_child):
    signal.signal(signal.SIGCHLD, handler := lambda *_: None)
    handler.__module__ = 'torch.x'
    thread = threading.Thread(target=disable_sigchld_handler)
    thread.start()
    thread.join()
    assert on_child() is handler


def test_signal_raises_in_interruptible_blocks():
    with StopSignals() as signals:
        with signals.interruptible():
            pass
        signal.raise_signal(signal.SIGTERM)  # Outside of a block, it is only recorded.
        with pytest.raises(StopRequested), signals.interruptible():
            raise AssertionError('the next batch should not be waited for')
    with StopSignals() as signals:
        with pytest.raises(StopRequested), signals.interruptible():
            signal.raise_signal(signal.SIGINT)
        assert signals.requested() == signal.SIGINT


def test_wait_is_overdue_some_time_after_the_signal(monkeypatch):
    signals.raise_if_overdue()  # Without StopSignals.
    with StopSignals():
        monkeypatch.setattr(signals, 'PATIENCE_SECONDS', -1.0)
        signals.raise_if_overdue()
        signal.raise_signal(signal.SIGTERM)
        monkeypatch.setattr(signals, 'PATIENCE_SECONDS', 1000.0)
        signals.raise_if_overdue()
        monkeypatch.setattr(signals, 'PATIENCE_SECONDS', -1.0)
        with pytest.raises(StopRequested):
            signals.raise_if_overdue()
    signals.raise_if_overdue()
