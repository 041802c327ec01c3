import os
import signal
import subprocess
import sys
import textwrap

import pytest

from mmkdml.experiments.suites.execution import processes
from mmkdml.experiments.suites.execution.processes import failure_reason, is_dead, this_host


def test_exited_process_of_this_machine_is_dead():
    child = subprocess.Popen([sys.executable, '-c', ''], stdout=subprocess.PIPE)
    assert child.stdout.read() == b''
    if sys.platform == 'linux':  # a zombie
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert is_dead(f'{this_host()}#{child.pid}.1')
    child.wait()
    assert is_dead(f'{this_host()}#{child.pid}.1')
    assert not is_dead(f'{this_host()}#{os.getpid()}.1')
    assert not is_dead(f'elsewhere#{child.pid}.1')
    assert not is_dead(None)
    assert not is_dead('nonsense')


@pytest.mark.parametrize(
    ('log', 'code', 'expected'),
    [
        ('one\n\n two\n', 1, 'one\n two'),
        ('', 3, 'exit code 3'),
        ('', -1, 'killed by SIGHUP'),
        ('one\n', -9, 'one\nkilled by SIGKILL (often out of memory)'),
        ('one\n', -250, 'one\nkilled by signal 250'),
        ('x\n' * 50 + 'end', 1, 'x\n' * 11 + 'end'),
        ('\udcff\n', 1, '\ufffd'),
    ],
)
def test_failure_reason_is_end_of_log_and_signal(tmp_path, log, code, expected):
    path, earlier = tmp_path / 'run.log', b'an earlier attempt\n'
    path.write_bytes(earlier + log.encode(errors='surrogateescape'))
    assert failure_reason(path, len(earlier), code) == expected


@pytest.mark.slow
def test_run_exits_when_its_worker_is_killed():
    run_code = textwrap.dedent("""
        import signal
        from mmkdml.experiments.suites.execution.processes import exit_when_stdin_closes
        exit_when_stdin_closes()
        signal.signal(signal.SIGALRM, lambda *_: print('still alive', flush=True))
        signal.alarm(300)
        print('ready', flush=True)
        signal.pause()
    """)
    worker_code = textwrap.dedent(f"""
        import signal, subprocess, sys
        run = subprocess.Popen([sys.executable, '-c', {run_code!r}], stdin=subprocess.PIPE,
                               start_new_session=True)
        signal.pause()
    """)
    worker = subprocess.Popen([sys.executable, '-c', worker_code], stdout=subprocess.PIPE)
    assert worker.stdout.readline() == b'ready\n'
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    assert worker.stdout.read() == b''  # the run, which inherited the pipe, has exited


def test_cloned_machines_differ(tmp_path, monkeypatch):
    """They have the same name and PID namespace, and other boot identifiers."""
    child = subprocess.Popen([sys.executable, '-c', ''])
    child.wait()
    names = []
    for boot in ('one', 'two'):
        (tmp_path / boot).write_text(f'{boot}\n')
        monkeypatch.setattr(processes, '_BOOT', tmp_path / boot)
        names.append(f'{this_host()}#{child.pid}.1')
    assert names[0] != names[1]
    assert [is_dead(name) for name in names] == [False, True]


def test_machine_without_boot_identifier_has_one_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, '_BOOT', tmp_path / 'missing')
    monkeypatch.setattr(processes.uuid, 'getnode', lambda: 0xABC)
    first = this_host()
    assert first == this_host()
    monkeypatch.setattr(processes.uuid, 'getnode', lambda: 0xABD)
    assert first != this_host()


def test_worker_of_an_earlier_version_is_not_known_to_be_dead():
    earlier = this_host().rpartition('/')[0]
    assert not is_dead(f'{earlier}#999999999.1')
