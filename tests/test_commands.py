"""The command ``mmkdml``, and the commands that messages suggest."""

import sys
from pathlib import Path

import pytest

from mmkdml.commands import command_tools, main, own_command, tool_command

ROOT = Path(__file__).parents[1]


@pytest.fixture
def mmkdml(monkeypatch, capsys):
    """Return a function that runs the command and returns its exit code, stdout and stderr."""
    monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])  # restored afterwards

    def run(*words):
        monkeypatch.setattr(sys, 'argv', ['/usr/bin/mmkdml', *map(str, words)])
        try:
            code = main()
        except SystemExit as error:
            code = error.code
        return code, *capsys.readouterr()

    return run


def test_every_tool_has_a_command():
    tools = {path.resolve() for path in command_tools().values()}
    assert tools == set(ROOT.glob('tools/**/*.py'))
    assert {'train', 'list-taps', 'cka', 'convert lgg', 'convert demo'} <= set(command_tools())


def test_help_lists_every_command_with_its_summary(mmkdml):
    code, text, _ = mmkdml('--help')
    assert code is None
    rows = dict(line.split(maxsplit=1) for line in text.splitlines() if line.startswith('  '))
    assert set(rows) >= {name.split()[0] for name in command_tools()}
    assert rows['print-classroom'] == 'print members, transfers and savings'
    assert not any('tools/' in row for row in rows.values())
    assert max(map(len, text.splitlines())) <= 80
    assert 'HAM10000' in mmkdml('convert', '-h')[1]


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], 'expected a command, one of train, test,'),
        (['trian'], "unknown command 'trian'. Did you mean 'train'? (mmkdml --help)"),
        (['list_taps'], "Did you mean 'list-taps'"),
        (['--nonsense'], "unknown command '--nonsense': expected one of train, "),
        (['convert'], 'one of accept-splits, bccd, coco,'),
        (['convert', 'lggs'], "'lggs'. Did you mean 'lgg'? (mmkdml convert --help)"),
        (['convert', '123'], "'123': expected one of accept-splits, bccd, coco, "),
    ],
)
def test_unknown_command_exits_with_two_and_names_the_known(mmkdml, words, message):
    code, out, err = mmkdml(*words)
    assert (code, out) == (2, '')
    assert err.startswith('mmkdml: error: ')
    assert message in err


def test_tool_runs_with_its_arguments(mmkdml, tmp_path):
    size = ('--patients', 1, '--slices', 2, '--size', 32)
    code, out, _ = mmkdml('convert', 'demo', tmp_path / 'data', *size)
    assert (code, out) == (None, f'2 slices of 1 patients in {tmp_path / "data"}\n')
    assert len(list((tmp_path / 'data').glob('*/*.tif'))) == 4  # with their masks


def test_errors_name_the_command(mmkdml):
    assert mmkdml('train', 'none.py')[0] == 'mmkdml train: error: There is no config file none.py'
    code, _, err = mmkdml('train')
    assert code == 2
    assert err.startswith('usage: mmkdml train [-h]')
    assert 'mmkdml convert lgg: error: the following' in mmkdml('convert', 'lgg')[2]


TOOL_COMMANDS = [
    ('train', 'python tools/train.py', 'mmkdml train'),
    ('list_taps', 'python tools/list_taps.py', 'mmkdml list-taps'),
    ('analysis/cka', 'python tools/analysis/cka.py', 'mmkdml cka'),
    ('dataset_converters', 'tools/dataset_converters', 'mmkdml convert'),
    (
        'dataset_converters/accept_splits',
        'python tools/dataset_converters/accept_splits.py',
        'mmkdml convert accept-splits',
    ),
]


@pytest.mark.parametrize(('tool', 'script', 'command'), TOOL_COMMANDS)
def test_suggested_command_works_where_it_is_printed(monkeypatch, tmp_path, tool, script, command):
    monkeypatch.setattr(sys, 'argv', ['tools/train.py'])
    monkeypatch.chdir(ROOT)
    assert tool_command(tool) == script
    monkeypatch.chdir(tmp_path)
    assert tool_command(tool) == command
    other = tmp_path / script.removeprefix('python ')  # of another project
    other.parent.mkdir(parents=True)
    other.touch()
    assert tool_command(tool) == command
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, 'argv', ['mmkdml train', 'x.py'])
    assert tool_command(tool) == command


def test_own_command(monkeypatch):
    monkeypatch.setattr(sys, 'argv', ['mmkdml convert lgg', 'a b'])
    assert own_command() == ['mmkdml', 'convert', 'lgg', 'a b']
    monkeypatch.setattr(sys, 'argv', ['my tools/train.py', 'a b'])
    assert own_command() == ['python', 'my tools/train.py', 'a b']
