import io

import pytest

from mmkdml.console import PLAIN_WIDTH, Console, OverallProgress, get_console


@pytest.fixture
def plain():
    return Console(io.StringIO())


@pytest.fixture
def terminal():
    environment = dict(TERM='xterm-256color')
    return Console(io.StringIO(), force_terminal=True, width=60, _environ=environment)


def written(console):
    return console.rich.file.getvalue()


def test_output_without_a_terminal_is_plain(plain, monkeypatch):
    monkeypatch.setenv('COLUMNS', '20')
    assert (plain.width, plain.is_terminal) == (PLAIN_WIDTH, False)
    with plain.live():
        plain.update('never seen')
        plain.line('x' * 300 + ' [bold]/path:3[/]', 'bold')
        plain.table(['a\nb', 'c'], [['one', 2]], title='Title', bold=[(0, 1)])
    text = written(plain)
    assert '\x1b' not in text
    assert '\r' not in text
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[:4] == ['x' * 300 + ' [bold]/path:3[/]', 'Title', 'a', 'b     c']
    assert lines[-1] == 'one   2'


def test_live_text_of_a_terminal_stays_below_lines_and_is_removed(terminal):
    with terminal.live(), terminal.live():  # a nested one has no effect
        terminal.update('12 of 20')
        terminal.line('a warning', 'yellow')
    text = written(terminal)
    assert '12 of 20' in text
    assert '\x1b[33ma warning\x1b[0m' in text
    assert text.endswith('\x1b[2K')  # the live line is erased
    terminal.update('no longer')
    assert 'no longer' not in written(terminal)


def test_cells_to_highlight_are_bold(terminal):
    terminal.table(['name', 'IoU'], [['first', '1.0'], ['second', '2.0']], bold=[(1, 1)])
    assert '\x1b[1;32m2.0\x1b[0m' in written(terminal)
    assert '\x1b[1;32m1.0' not in written(terminal)


def test_default_console_follows_stdout(capsys):
    get_console().line('here')
    assert capsys.readouterr().out == 'here\n'


def test_overall_progress_estimates_the_remaining_time(monkeypatch, plain, terminal):
    now = [0.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    for console in (plain, terminal):
        with OverallProgress(8, 'runs', done=2, console=console) as progress:
            assert progress.text() == '2 of 8 runs'
            now[0] += 50
            progress.advance()
            assert progress.text() == '3 of 8 runs, about 4 min 10 s left'
            progress.advance(left=30)
            assert progress.text() == '4 of 8 runs, about 30 s left'
            progress.advance(8, note='best 71.2')
            assert progress.text() == '8 of 8 runs'
    assert written(plain) == ''
    assert 'best 71.2' in written(terminal)
