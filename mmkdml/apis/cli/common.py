"""Arguments and exit codes shared by the tools.

Imports neither PyTorch nor the frameworks, so that tools parse their arguments at once.
"""

from __future__ import annotations

import argparse
import atexit
import linecache
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.error import URLError

# Delay before exiting, so that the launcher notices the process that failed first.
LAUNCHER_SECONDS = 5.0


class _Options(argparse.Action):
    """``--cfg-options``; rejects words that are not ``KEY=VALUE``."""

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
        from mmengine.config import DictAction

        DictAction([], self.dest)(parser, namespace, values, option_string)
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
    """Add ``--cfg-options`` to a parser."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=_Options,
        default={},
        metavar='KEY=VALUE',
        help='override settings of the config, e.g. train_cfg.max_epochs=3',
    )


def add_slicing(parser: argparse.ArgumentParser) -> None:
    """Add ``--plane`` and ``--window``, which make pictures of volumes, to a parser."""
    parser.add_argument(
        '--plane',
        choices=('axial', 'coronal', 'sagittal'),
        default='axial',
        help='slicing plane of NIfTI volumes (default: %(default)s)',
    )
    parser.add_argument(
        '--window',
        nargs=2,
        type=float,
        metavar=('LOW', 'HIGH'),
        help='intensities of NIfTI and DICOM that are mapped to black and white',
    )


def add_use_config(parser: argparse.ArgumentParser) -> None:
    """Add ``--use-config`` to a parser."""
    parser.add_argument(
        '--use-config',
        action='store_true',
        help='with CONFIG and the folder of a run: use CONFIG although the run has other settings',
    )


def config_parser(
    description: str, launcher: bool = False, checkpoint: bool = False
) -> argparse.ArgumentParser:
    """Create a parser with ``CONFIG`` and ``--cfg-options``.

    Args:
        description: First line of the help.
        launcher: Add ``--launcher`` and ``--verbose``, for tools that run in several processes.
        checkpoint: Add ``CHECKPOINT`` and ``--use-config``, for tools that use trained weights. Use
            ``parse_intermixed_args``, so that options may precede ``CHECKPOINT``.
    """
    parser = argparse.ArgumentParser(description=description)
    if checkpoint:
        parser.add_argument(
            'config',
            metavar='RUN',
            help='folder of a run, for its config and best checkpoint; or CONFIG CHECKPOINT',
        )
        parser.add_argument(
            'checkpoint',
            nargs='?',
            metavar='CHECKPOINT',
            help='checkpoint file; after a config also the folder of a run',
        )
        add_use_config(parser)
    else:
        parser.add_argument('config', metavar='CONFIG', help='config file, or folder of a run')
    add_cfg_options(parser)
    if launcher:
        parser.add_argument(
            '--launcher',
            choices=('none', 'pytorch', 'slurm', 'mpi'),
            default='none',
            help='launcher that started the processes (default: %(default)s)',
        )
        parser.add_argument(
            '--verbose',
            action='store_true',
            help='print the whole log, which is always in its file',
        )
        # torchrun and older launchers pass it; mmengine reads the environment instead.
        parser.add_argument('--local_rank', '--local-rank', type=int, help=argparse.SUPPRESS)
    return parser


def run_tool(main: Callable[[], None]) -> None:
    """Run the main function of a tool; print errors that its user can fix in one line.

    These are errors of the operating system (``OSError``), and ``ValueError``, ``TypeError``,
    ``AttributeError`` and ``NotImplementedError`` from a ``raise`` statement of this package. All
    others are bugs and keep their traceback. A process that lost the connection to another one
    reports that. If the reader of a pipe has closed it, as ``head`` does, the tool ends silently.

    Raises:
        SystemExit: With ``<tool>: error: <message>`` for stderr, or with code 130 after Ctrl-C.
    """
    try:
        try:
            main()
        except Exception as error:
            _report_to_launcher(error)
            raise
        if _process_group():
            leave_process_group()
    except KeyboardInterrupt:
        print(f'{_tool_name()}: interrupted', file=sys.stderr)
        sys.exit(130)
    except URLError as error:
        sys.exit(
            f'{_tool_name()}: error: cannot download pretrained weights ({error.reason}). Without '
            'a network, set init_cfg of the networks to local files, or to None to train from '
            'scratch'
        )
    except BrokenPipeError:
        # Python flushes stdout at exit, which would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        _exit(error)
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        if not _is_from_raise_statement(error):
            raise
        _exit(error)


def leave_process_group() -> None:
    """End one of several processes after all of them are done.

    With gloo the process exits at once, after its exit handlers. Otherwise gloo's threads may abort
    it while the interpreter shuts down ("terminate called without an active exception"), or
    deadlock: the last owner of the group waits for them and holds the GIL that they need.
    """
    import torch.distributed as dist

    dist.barrier()
    if dist.get_backend() != 'gloo':
        dist.destroy_process_group()
        return
    _exit_at_once(0)


def _process_group() -> ModuleType | None:
    """Return ``torch.distributed`` if this process belongs to a group."""
    dist = sys.modules.get('torch.distributed')
    return dist if dist is not None and dist.is_initialized() else None


def _exit_at_once(code: int) -> None:
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _report_to_launcher(error: Exception) -> None:
    """Record an error for torchrun; exit if it is a lost connection to another process."""
    dist = _process_group()
    if dist is None:
        return
    if not (isinstance(error, dist.DistError) or '/gloo/' in str(error)):
        if dist.is_torchelastic_launched():
            from torch.distributed.elastic.multiprocessing.errors import get_error_handler

            get_error_handler().record_exception(error)
        return
    print(
        f'{_tool_name()}: error: process {dist.get_rank()} of {dist.get_world_size()} (numbered '
        f'from 0, on {socket.gethostname()}) lost the connection to another one, which was killed, '
        'failed or hangs; see its log or that of the launcher. Continue from the last checkpoint '
        f'with --resume. {error}',
        file=sys.stderr,
        flush=True,
    )
    time.sleep(LAUNCHER_SECONDS)
    _exit_at_once(1)


def _tool_name() -> str:
    path = Path(sys.argv[0])
    return path.parent.name if path.stem == '__main__' else path.name


def _exit(error: Exception) -> None:
    sys.exit(f'{_tool_name()}: error: {error}')


def _is_from_raise_statement(error: Exception) -> bool:
    """Return whether a ``raise`` statement of this package or of a benchmark raised the error."""
    frame, line = list(traceback.walk_tb(error.__traceback__))[-1]
    package = frame.f_globals.get('__name__', '').partition('.')[0]
    source = linecache.getline(frame.f_code.co_filename, line).lstrip()
    return package in (__name__.partition('.')[0], 'benchmarks') and source.startswith('raise ')
