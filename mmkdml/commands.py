"""The command ``mmkdml``, which runs the tools, and the commands that messages suggest."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from mmkdml.version import __version__

TOOLS = Path(__file__).parent / '.mim' / 'tools'
_CONVERTERS = 'dataset_converters'
#: Commands that run tools of a folder.
_GROUPS = {'convert': (_CONVERTERS, 'write the split files of a data set')}
#: Tools whose command has another name.
_NAMES = {'make_demo_data': 'demo'}
#: Order in the help; the other tools follow.
_FIRST = ('train', 'test', 'predict', 'view', 'export', 'publish', 'summary', 'suite', 'tune')


def command_tools() -> dict[str, Path]:
    """Return the tool of each command, such as ``train`` or ``convert lgg``.

    Raises:
        FileNotFoundError: If the repository was cloned without symbolic links.
    """
    groups = {folder: f'{name} ' for name, (folder, _) in _GROUPS.items()}
    tools = {}
    if not TOOLS.is_dir():
        raise FileNotFoundError(
            f'{TOOLS} is missing: expected a link to the tools. Enable symbolic links in git '
            '(core.symlinks) and clone again, or install mmkdml'
        )
    for path in sorted(TOOLS.glob('*.py')) + sorted(TOOLS.glob('*/*.py')):
        name = _NAMES.get(path.stem, path.stem).replace('_', '-')
        tools[groups.get(path.parent.name, '') + name] = path
    return {name: tools[name] for name in _FIRST if name in tools} | tools


def tool_command(tool: str) -> str:
    """Return the command that runs a tool, for messages.

    Args:
        tool: Path in ``tools`` without suffix, such as ``train`` or ``dataset_converters/lgg``; or
            ``dataset_converters`` for the folder.

    Returns:
        ``python tools/train.py`` if the current directory is the repository, unless this process
        runs the command ``mmkdml``; otherwise ``mmkdml train``.
    """
    suffix = '' if tool == _CONVERTERS else '.py'
    path, here = TOOLS / f'{tool}{suffix}', Path('tools', f'{tool}{suffix}')
    if not _is_command() and here.exists() and here.samefile(path):
        return f'python {here.as_posix()}' if suffix else here.as_posix()
    groups = {TOOLS / folder: name for name, (folder, _) in _GROUPS.items()}
    names = groups | {other: name for name, other in command_tools().items()}
    return f'mmkdml {names[path]}'


def own_command() -> list[str]:
    """Return the words of the command line that started this process."""
    return [*sys.argv[0].split(' '), *sys.argv[1:]] if _is_command() else ['python', *sys.argv]


def _is_command() -> bool:
    return sys.argv[:1] != [] and sys.argv[0].startswith('mmkdml ')


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the tool that the first argument names, with the other arguments.

    Args:
        arguments: Words after ``mmkdml``. Default: those of the process.

    Raises:
        SystemExit: After ``--help`` and ``--version``, with code 2 if the command is unknown, or as
            the tool does.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ['--version']:
        print(f'mmkdml {__version__}')
        return
    tools = command_tools()
    given = 2 if words and words[0] in _GROUPS else 1
    name, rest = ' '.join(words[:given]), words[given:]
    if name in tools:
        sys.argv = [f'mmkdml {name}', *rest]
        _run(tools[name])
        return
    group = words[0] if given == 2 else ''
    known = [one for one in tools if one.startswith(f'{group} ')] if group else list(tools)
    if words[given - 1 : given] in (['-h'], ['--help']):
        print(_help(group, {one: tools[one] for one in known}))
        return
    names = list(dict.fromkeys(one.removeprefix(f'{group} ').split(' ')[0] for one in known))
    print(f'mmkdml: error: {_advice(words[:given], given, names)}', file=sys.stderr)
    sys.exit(2)


def _advice(words: Sequence[str], needed: int, names: Sequence[str]) -> str:
    """Explain why words are not a command, and how to find the right one."""
    help_command = ' '.join(['mmkdml', *words[: needed - 1], '--help'])
    listed = f'one of {", ".join(names)} ({help_command})'
    if len(words) < needed:
        return f'expected a command, {listed}'
    near = get_close_matches(words[-1], names, n=1)
    if not near:
        return f'unknown command {words[-1]!r}: expected {listed}'
    return f'unknown command {words[-1]!r}. Did you mean {near[0]!r}? ({help_command})'


def _run(tool: Path) -> None:
    """Run a tool as Python does, except that ``sys.argv[0]``, its name in messages, is kept."""
    module = ModuleType('__main__')
    module.__file__ = str(tool)
    sys.modules['__main__'] = module  # workers of a data loader may import it
    exec(compile(tool.read_bytes(), tool, 'exec'), module.__dict__)


def _help(group: str, tools: dict[str, Path]) -> str:
    """Format the help of the command, or of a group such as ``convert``."""
    rows = {}
    for name, path in tools.items():
        first = name.split(' ')[0]
        if first in _GROUPS and not group:
            rows[f'{first} ...'] = _GROUPS[first][1]
        else:
            rows[name.removeprefix(f'{group} ')] = _summary(path)
    width = max(map(len, rows)) + 2
    title = _GROUPS[group][1] if group else 'knowledge distillation with learning styles'
    return '\n'.join(
        [
            ' '.join(['usage: mmkdml', *[group] * bool(group), 'COMMAND ...']),
            f'\n{title[0].upper()}{title[1:]}.\n',
            'commands:',
            *(f'  {name:{width}}{text}' for name, text in rows.items()),
            '\noptions:',
            '  -h, --help  show this help and exit; after a command, that of the command',
            *['  --version   print the version and exit'] * (not group),
        ]
    )


def _summary(tool: Path) -> str:
    """Return what a tool does, from the first line of its docstring."""
    docstring = ast.get_docstring(ast.parse(tool.read_text(encoding='utf-8'))) or ''
    text = docstring.partition('\n')[0].partition(': ')[0].rstrip('.')
    return text[:1].lower() + text[1:]
