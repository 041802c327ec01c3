"""Names of the processor and the device, for reports."""

from __future__ import annotations

import platform
import re
from pathlib import Path

import torch


def processor_name() -> str:
    """Return the model of the processor on Linux, or its architecture."""
    cpuinfo = Path('/proc/cpuinfo')
    found = cpuinfo.is_file() and re.search(r'model name\s*: (.+)', cpuinfo.read_text())
    return found[1] if found else platform.processor() or platform.machine()


def cpu_name() -> str:
    """Return the processor and the number of threads that PyTorch uses."""
    threads = torch.get_num_threads()
    return f'{processor_name()}, {threads} thread{"s" * (threads > 1)}'


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, or that of the processor with its threads."""
    return torch.cuda.get_device_name(device) if device.type == 'cuda' else cpu_name()
