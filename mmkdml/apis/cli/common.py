"""What the command lines of the tools share."""

from __future__ import annotations

import argparse
import atexit
import linecache
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
import torch.distributed
from mmengine.config import DictAction
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

# In which a launcher sees what became of another process, before it hears of this one's end
LAST_WORDS_SECONDS = 5.0


class _Options(DictAction):
    """``--cfg-options`` with an error of one line for what is not ``KEY=VALUE``."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        for word in values:
            key, equals, value = word.partition('=')
            if not (key and equals and _is_balanced(value)):
                parser.error(
                    f'Invalid {option_string} {word!r}: expected KEY=VALUE, such as '
                    'train_cfg.max_epochs=3, with an equal number of opening and closing brackets'
                )
        super().__call__(parser, namespace, values, option_string)
        for word in values:
            key, _, value = word.partition('=')
            if ' ' in value and not set(value) & set('([,'):  # where mmengine drops spaces
                getattr(namespace, self.dest)[key] = value.strip('\'"')


def _is_balanced(value: str) -> bool:
    open_brackets: list[str] = []
    for one in value:
        if one in '([':
            open_brackets.append(one)
        elif one in ')]' and (not open_brackets or open_brackets.pop() + one not in ('()', '[]')):
            return False
    return not open_brackets


def add_cfg_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--cfg-options``, the same for every tool, to a parser."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        default={},
        metavar='KEY=VALUE',
        help='settings of the config to change, e.g. train_cfg.max_epochs=3',
    )


def config_parser(description: str, launcher: bool = False) -> argparse.ArgumentParser:
    """A parser with ``CONFIG`` and ``--cfg-options``.

    Args:
        description: First line of the help.
        launcher: Whether the tool runs in several processes: adds ``--launcher``.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument('config', metavar='CONFIG', help='config file')
    add_cfg_options(parser)
    if launcher:
        parser.add_argument(
            '--launcher',
            choices=('none', 'pytorch', 'slurm', 'mpi'),
            default='none',
            help='who started the processes',
        )
        # torchrun and older launchers pass it; mmengine reads the environment instead
        parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser


def run_tool(main: Callable[[], None]) -> None:
    """Runs a tool; what its user can mend is told in one line, a bug with its traceback.

    A user can mend what the operating system refuses (``OSError``) and what this package refuses by
    a ``raise`` of its own (``ValueError``, ``TypeError``). The same kinds of error from elsewhere,
    or from an operation that failed in this package, are bugs. Of several processes, one that lost
    another says so; torchrun names the other in its summary, and its error if it had one.

    Raises:
        SystemExit: With ``<tool>: error: <message>``, which Python writes to stderr; with code 130,
            as shells have it, after Ctrl-C.
    """
    try:
        try:
            main()
        except Exception as error:
            _tell_of_processes(error)
            raise
        if torch.distributed.is_initialized():
            leave_process_group()
    except KeyboardInterrupt:
        print(f'{_tool_name()}: interrupted', file=sys.stderr)
        sys.exit(130)
    except URLError as error:
        sys.exit(
            f'{_tool_name()}: error: pretrained weights cannot be downloaded '
            f"({error.reason}). Without a network, name local files in the networks' init_cfg, or "
            'None to start untrained'
        )
    except OSError as error:
        _stop(error)
    except (ValueError, TypeError) as error:
        if not _is_refusal(error):
            raise
        _stop(error)


def leave_process_group() -> None:
    """Ends a process of several, after all of them are done.

    gloo's threads sometimes abort a process while the interpreter goes down ("terminate called
    without an active exception"), or hang it: who gives up the group last, often a
    DistributedDataParallel, waits for them with Python's lock held, which they need to let go of
    tensors. So with gloo it ends before that, its exit handlers done.
    """
    torch.distributed.barrier()
    if torch.distributed.get_backend() != 'gloo':
        torch.distributed.destroy_process_group()
        return
    _leave_at_once(0)


def _leave_at_once(code: int) -> None:
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _tell_of_processes(error: Exception) -> None:
    """Tells of a process that was lost, and ends; or tells torchrun of this one's own error."""
    if not torch.distributed.is_initialized():
        return
    if not (isinstance(error, torch.distributed.DistError) or '/gloo/' in str(error)):
        if torch.distributed.is_torchelastic_launched():
            get_error_handler().record_exception(error)
        return
    rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    print(
        f'{_tool_name()}: error: process {rank} of {processes} (numbered from 0, on '
        f'{socket.gethostname()}) lost another one, which was killed, failed or hangs; the '
        f'launcher or its own log tells. --resume goes on from the last checkpoint. {error}',
        file=sys.stderr,
        flush=True,
    )
    time.sleep(LAST_WORDS_SECONDS)
    _leave_at_once(1)


def _tool_name() -> str:
    path = Path(sys.argv[0])
    return path.parent.name if path.stem == '__main__' else path.name


def _stop(error: Exception) -> None:
    sys.exit(f'{_tool_name()}: error: {error}')


def _is_refusal(error: Exception) -> bool:
    """Return whether the error comes from a ``raise`` statement in this package or a benchmark."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    package = frame.f_globals.get('__name__', '').partition('.')[0]
    source = linecache.getline(frame.f_code.co_filename, line).lstrip()
    return package in (__name__.partition('.')[0], 'benchmarks') and source.startswith('raise ')
