import io

import pytest

from mmkdml.console import Console, OverallProgress
from mmkdml.console import progress as module


@pytest.fixture
def clock(monkeypatch):
    """Time in seconds, set by ``clock[0] = ...``."""
    now = [100.0]
    monkeypatch.setattr(module.time, 'monotonic', lambda: now[0])
    return now


def test_remaining_time_is_that_of_the_units_since_the_start(clock):
    progress = OverallProgress(10, 'trials', done=4, console=Console(io.StringIO()))
    assert progress.seconds_left is None
    assert progress.text() == '4 of 10 trials'
    clock[0] += 60
    progress.advance(6)  # 30 s per trial, 4 trials left
    assert progress.seconds_left == 120
    assert progress.text() == '6 of 10 trials, about 2 min 0 s left'
    progress.advance()
    assert progress.done == 7
    progress.advance(8, left=5.0)
    assert progress.seconds_left == 5
    progress.advance(10)
    assert progress.text() == '10 of 10 trials'


@pytest.mark.parametrize('terminal', [True, False])
def test_bar_is_drawn_only_on_a_terminal(terminal, clock, monkeypatch):
    monkeypatch.setenv('TERM', 'xterm')
    file = io.StringIO()
    with OverallProgress(3, console=Console(file, force_terminal=terminal)) as progress:
        progress.advance(note='best 81.20')
        progress.console.line('run a done')
    text = file.getvalue()
    assert ('1 of 3 runs' in text) == ('best 81.20' in text) == ('\x1b' in text) == terminal
    assert 'run a done' in text
    if not terminal:
        assert text == 'run a done\n'
