import platform
import subprocess
import sys

import pytest

from mmkdml.engine import memory

FAULTS = """
import resource, runpy, sys, torch

def faults():
    for _ in range(5):  # Until the heap has reached its size.
        torch.ones(1 << 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(8):
        torch.ones(1 << 24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

plain = faults()
# As a file, because its package imports the frameworks.
assert runpy.run_path(sys.argv[1])['keep_freed_memory']()
print(plain, faults())
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='needs glibc')
def test_freed_memory_is_kept():
    done = subprocess.run(
        [sys.executable, '-c', FAULTS, memory.__file__], capture_output=True, text=True, check=True
    )
    plain, keep = map(int, done.stdout.split()[-2:])
    # 8 x 64 MiB are 131072 pages of 4 KiB (or fewer, larger ones).
    assert keep < plain / 2


@pytest.mark.parametrize('error', [AttributeError, OSError, TypeError])
def test_other_c_libraries_return_false(monkeypatch, error):
    def no_library(name):
        raise error

    monkeypatch.setattr(memory.ctypes, 'CDLL', no_library)
    assert memory.keep_freed_memory() is False


@pytest.mark.skipif(sys.platform != 'linux', reason='compares with /proc')
def test_peak_memory_without_proc(monkeypatch):
    known = memory.peak_memory_mib()
    monkeypatch.setattr(memory.Path, 'exists', lambda path: False)
    assert memory.peak_memory_mib() == pytest.approx(known, rel=0.01)
    monkeypatch.setattr(memory.sys, 'platform', 'darwin')  # Counts bytes instead of KiB.
    assert memory.peak_memory_mib() == pytest.approx(known / 1024, rel=0.01)
