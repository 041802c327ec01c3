import os
import subprocess
import sys

from mmkdml.experiments.processes import is_dead, this_host


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
