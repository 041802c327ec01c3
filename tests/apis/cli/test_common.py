import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
from urllib.error import URLError

import pytest

from mmkdml.apis import config_parser, run_tool


@pytest.fixture
def package_module(tmp_path):
    """Return a function that creates a module of the package from source code."""

    def make(source, name='mmkdml.generated'):
        path = tmp_path / 'generated.py'
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return make


@pytest.mark.parametrize(
    'kind',
    ['ValueError', 'TypeError', 'FileNotFoundError', 'AttributeError', 'NotImplementedError'],
)
def test_error_raised_by_the_package_is_one_line(package_module, monkeypatch, kind):
    monkeypatch.setattr(sys, 'argv', ['/some/where/tool.py'])
    main = package_module(f'def main():\n    raise {kind}(\n        "no such thing")\n').main
    with pytest.raises(SystemExit) as stopped:
        run_tool(main)
    assert stopped.value.code == 'tool.py: error: no such thing'


def test_error_with_cause_prints_its_own_message(package_module):
    main = package_module(
        'def main():\n'
        '    try:\n'
        '        int("x")\n'
        '    except ValueError as error:\n'
        '        raise ValueError("a number, please") from error\n'
    ).main
    with pytest.raises(SystemExit, match='error: a number, please'):
        run_tool(main)


@pytest.mark.parametrize(
    ('line', 'kind', 'message'),
    [
        ('int("x")', ValueError, 'invalid literal'),
        ('len(3)', TypeError, 'has no len'),
        ('main(1)', TypeError, 'positional argument'),
        ('len.x', AttributeError, 'no attribute'),
        ('raise KeyError("x")', KeyError, 'x'),
        ('raise RuntimeError("x")', RuntimeError, 'x'),
    ],
)
def test_other_errors_keep_their_traceback(package_module, line, kind, message):
    with pytest.raises(kind, match=message):
        run_tool(package_module(f'def main():\n    {line}\n').main)


def test_errors_raised_by_other_packages_keep_their_traceback(package_module):
    main = package_module('def main():\n    raise ValueError("foreign")\n', 'mmkdml_other').main
    with pytest.raises(ValueError, match='foreign'):
        run_tool(main)


def test_error_of_the_operating_system_is_one_line(tmp_path):
    with pytest.raises(SystemExit, match=re.escape(f"No such file or directory: '{tmp_path}/x'")):
        run_tool(lambda: (tmp_path / 'x').read_text())


def test_arguments_of_config_parser():
    parser = config_parser('Train.')
    args = parser.parse_args(['c.py', '--cfg-options', 'a.b=3', 'c=[1,x]'])
    assert vars(args) == dict(config='c.py', cfg_options={'a.b': 3, 'c': [1, 'x']})
    args = config_parser('', launcher=True).parse_args(
        ['c.py', '--launcher', 'slurm', '--local-rank=1']
    )
    assert (args.launcher, args.local_rank, args.cfg_options) == ('slurm', 1, {})


def test_failed_download_names_init_cfg():
    def main():
        raise URLError('Name or service not known')

    with pytest.raises(SystemExit, match='download pretrained weights .*init_cfg'):
        run_tool(main)


def test_closed_pipe_ends_silently():
    code = (
        'from mmkdml.apis.cli.common import run_tool\n'
        'run_tool(lambda: [print("x" * 999, flush=True) for _ in range(999)])'
    )
    command = [sys.executable, '-c', code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b''
    assert process.returncode == 141


def test_ctrl_c_is_one_line_with_code_130(monkeypatch, capsys):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, 'argv', ['tools/predict.py'])
    with pytest.raises(SystemExit, match='130'):
        run_tool(stopped)
    assert capsys.readouterr().err == 'predict.py: interrupted\n'


PROCESS = """
import os, signal
import torch
import torch.distributed as dist
from mmkdml.apis import run_tool

def main():
    dist.init_process_group('gloo')
    for step in range(3):
        dist.all_reduce(torch.ones(1))
        if dist.get_rank() == 1 and step == 1:
            {end}

run_tool(main)
"""
KILLED = 'os.kill(os.getpid(), signal.SIGKILL)'
LOST = (
    r'error: process 0 of 2 \(numbered from 0, on .+\) lost the connection to another one.+--resume'
)


@pytest.fixture
def two_processes(tmp_path):
    """Return a function that starts two processes, of which the second one ends."""

    def start(end, *launcher, **environment):
        script = tmp_path / 'tool.py'
        script.write_text(PROCESS.format(end=end))
        return subprocess.Popen(
            [sys.executable, *launcher, script],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1', **environment},
        )

    return start


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return str(free.getsockname()[1])


@pytest.mark.slow
def test_lost_process_is_reported(two_processes, port):
    group = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=port, WORLD_SIZE='2')
    both = [two_processes(KILLED, RANK=str(rank), **group) for rank in range(2)]
    texts = [process.communicate(timeout=500)[0] for process in both]
    assert [process.returncode for process in both] == [1, -signal.SIGKILL]
    assert re.search(LOST, texts[0])
    assert 'Traceback' not in texts[0]


@pytest.mark.slow
def test_torchrun_reports_the_failed_process_and_its_error(two_processes, port):
    torchrun = ('-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_addr=127.0.0.1')
    launcher = two_processes(
        'raise ValueError("an image is broken")', *torchrun, f'--master_port={port}'
    )
    text, _ = launcher.communicate(timeout=500)
    assert launcher.returncode == 1
    assert re.search(LOST, text)
    cause = text.partition('Root Cause (first observed failure)')[2]
    assert 'rank      : 1 ' in cause
    assert 'ValueError: an image is broken' in cause
