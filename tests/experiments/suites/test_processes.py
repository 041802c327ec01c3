import os
import subprocess
import sys

import pytest

from mmkdml.experiments.suites.processes import is_dead, last_words, this_host


def test_a_dead_process_of_this_machine_is_known():
    child = subprocess.Popen([sys.executable, '-c', ''], stdout=subprocess.PIPE)
    assert child.stdout.read() == b''
    if sys.platform == 'linux':  # a zombie, which counts as gone
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
        ('', 3, 'it ended with code 3'),
        ('', -1, 'it was ended by SIGHUP'),
        ('one\n', -9, 'one\nit was ended by SIGKILL, as by a system that is out of memory'),
        ('one\n', -250, 'one\nit was ended by signal 250'),
        ('x\n' * 50 + 'end', 1, 'x\n' * 11 + 'end'),
        ('\udcff\n', 1, '\ufffd'),
    ],
)
def test_why_a_run_failed(tmp_path, log, code, expected):
    path = tmp_path / 'run.log'
    path.write_bytes(b'of the attempt before\n' + log.encode(errors='surrogateescape'))
    assert last_words(path, len(b'of the attempt before\n'), code) == expected
