import importlib.util
import re
import sys
from urllib.error import URLError

import pytest

from mmkdml.apis import config_parser, run_tool


@pytest.fixture
def package_module(tmp_path):
    """A function that makes a module of the package out of source code."""

    def make(source, name='mmkdml.made_up'):
        path = tmp_path / 'made_up.py'
        path.write_text(source)
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return make


@pytest.mark.parametrize('kind', ['ValueError', 'TypeError', 'FileNotFoundError'])
def test_what_the_package_refuses_is_told_in_one_line(package_module, monkeypatch, kind):
    monkeypatch.setattr(sys, 'argv', ['/some/where/tool.py'])
    main = package_module(f'def main():\n    raise {kind}(\n        "no such thing")\n').main
    with pytest.raises(SystemExit) as stopped:
        run_tool(main)
    assert stopped.value.code == 'tool.py: error: no such thing'


def test_a_refusal_with_a_cause_is_told_in_its_own_words(package_module):
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
        ('raise KeyError("x")', KeyError, 'x'),
        ('raise RuntimeError("x")', RuntimeError, 'x'),
    ],
)
def test_bugs_keep_their_traceback(package_module, line, kind, message):
    with pytest.raises(kind, match=message):
        run_tool(package_module(f'def main():\n    {line}\n').main)


def test_refusals_of_other_packages_are_bugs_of_ours(package_module):
    main = package_module('def main():\n    raise ValueError("theirs")\n', 'mmkdml_other').main
    with pytest.raises(ValueError, match='theirs'):
        run_tool(main)


def test_what_the_system_refuses_is_told_in_one_line(tmp_path):
    with pytest.raises(SystemExit, match=re.escape(f"No such file or directory: '{tmp_path}/x'")):
        run_tool(lambda: (tmp_path / 'x').read_text())


def test_the_arguments_of_every_tool():
    parser = config_parser('What it does.')
    args = parser.parse_args(['c.py', '--cfg-options', 'a.b=3', 'c=[1,x]'])
    assert vars(args) == dict(config='c.py', cfg_options={'a.b': 3, 'c': [1, 'x']})
    args = config_parser('', launcher=True).parse_args(
        ['c.py', '--launcher', 'slurm', '--local-rank=1']
    )
    assert (args.launcher, args.local_rank, args.cfg_options) == ('slurm', 1, {})


def test_a_missing_network_is_told_with_a_way_out():
    def main():
        raise URLError('Name or service not known')

    with pytest.raises(SystemExit, match='weights cannot be downloaded .*init_cfg'):
        run_tool(main)


def test_a_stop_by_hand_is_told_in_one_line(monkeypatch, capsys):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, 'argv', ['tools/predict.py'])
    with pytest.raises(SystemExit, match='130'):
        run_tool(stopped)
    assert capsys.readouterr().err == 'predict.py: interrupted\n'
