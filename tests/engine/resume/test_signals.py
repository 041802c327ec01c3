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


def test_the_first_signal_is_noted(monkeypatch):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        assert signals.asked() == 0
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)  # its echo
        assert signals.asked() == signal.SIGTERM
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_second_one_is_followed_at_once(monkeypatch):
    monkeypatch.setattr(signals, 'ECHO_SECONDS', -1.0)
    with StopSignals():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with StopSignals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.asked() == 0
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_in_another_thread_there_is_nothing_to_hear():
    before, found = signal.getsignal(signal.SIGTERM), []

    def work():
        with StopSignals() as signals:
            found.append((signals.asked(), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(0, before)]


def test_what_one_process_got_all_follow(monkeypatch):
    def others_say(tensor, how):
        assert how == 'max'
        tensor.fill_(max(int(tensor), signal.SIGTERM))

    monkeypatch.setattr(signals, 'is_distributed', lambda: True)
    monkeypatch.setattr(signals, 'all_reduce', others_say)
    assert StopSignals().asked() == signal.SIGTERM


def ask(process, number):
    """Sends a signal from a process that is not the receiver's parent."""
    subprocess.run(['kill', f'-{number}', str(process)], check=True)


@pytest.mark.skipif(not hasattr(signal, 'sigwaitinfo'), reason='no sender can be told here')
def test_workers_outlive_all_but_their_parent():
    started = []
    loader = DataLoader(range(40), num_workers=1, worker_init_fn=started.append)
    shield_workers(loader)
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        ask(worker.pid, number)
    assert [batch.item() for batch in batches] == [*range(1, 40)]
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    worker.terminate()
    worker.join(300)
    assert worker.exitcode == 0


@pytest.fixture
def on_child():
    """What is done when a process that this one started ends."""
    before = signal.getsignal(signal.SIGCHLD)
    yield lambda: signal.getsignal(signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, before)


def test_a_dead_worker_disturbs_no_step(on_child):
    def own(*_):
        """Of a program that uses this package."""

    def pytorchs(*_):
        raise RuntimeError('DataLoader worker is killed')

    pytorchs.__module__ = 'torch.utils.data._utils.signal_handling'
    for handler, left in ((own, own), (pytorchs, signal.SIG_DFL), (signal.SIG_IGN, signal.SIG_IGN)):
        signal.signal(signal.SIGCHLD, handler)
        disable_sigchld_handler()
        assert on_child() == left


def test_in_another_thread_it_is_left(on_child):
    signal.signal(signal.SIGCHLD, handler := lambda *_: None)
    handler.__module__ = 'torch.x'
    thread = threading.Thread(target=disable_sigchld_handler)
    thread.start()
    thread.join()
    assert on_child() is handler


def test_a_signal_interrupts_what_waits_for_a_batch():
    with StopSignals() as signals:
        with signals.interruptible():
            pass
        signal.raise_signal(signal.SIGTERM)  # between batches: only noted
        with pytest.raises(StopRequested), signals.interruptible():
            raise AssertionError('the next batch must not be waited for')
    with StopSignals() as signals:
        with pytest.raises(StopRequested), signals.interruptible():
            signal.raise_signal(signal.SIGINT)
        assert signals.asked() == signal.SIGINT


def test_a_wait_is_overdue_some_time_after_the_signal(monkeypatch):
    signals.raise_if_overdue()  # nobody listens for signals
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
