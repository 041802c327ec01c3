"""Packaging: one version, bounded and complete dependencies, and the Makefile."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from glob import glob
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmkdml
from mmkdml.optional import MMDET

ROOT = Path(__file__).parents[1]


@pytest.fixture
def setup_arguments(monkeypatch):
    """Arguments that setup.py passes to setuptools."""
    arguments = {}
    monkeypatch.setattr(setuptools, 'setup', arguments.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path('setup.py')
    return arguments


def test_one_version(setup_arguments):
    assert setup_arguments['version'] == mmkdml.__version__
    newest = re.search(r'^## \[(.+?)\]', (ROOT / 'CHANGELOG.md').read_text(), re.MULTILINE)
    assert newest.group(1) == mmkdml.__version__


def test_every_directory_with_code_is_a_package(setup_arguments):
    """Without ``__init__.py`` a directory would be missing in the installed package."""
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob('mmkdml/**/*.py')}
    assert set(setup_arguments['packages']) == {'.'.join(folder.parts) for folder in folders}


def test_wheel_contains_all_configs_tools_and_suites(setup_arguments):
    patterns = setup_arguments['package_data']['mmkdml']
    packaged = {path for pattern in patterns for path in glob(f'mmkdml/{pattern}', recursive=True)}
    found = {
        path.relative_to(ROOT)
        for folder in ('configs', 'tools', 'suites')
        for path in ROOT.glob(f'{folder}/**/*')
        if path.is_file() and path.suffix != '.pyc'
    }
    assert len(found) > 150
    assert {f'mmkdml/.mim/{path}' for path in [*found, 'model-index.yml']} <= packaged
    assert {f'mmkdml/{path}' for path in found if path.match('configs/**/*.py')} <= packaged


def test_dependencies_are_bounded_on_both_sides(setup_arguments):
    extras = setup_arguments['extras_require'].values()
    for line in sum(extras, setup_arguments['install_requires']):
        operators = {specifier.operator for specifier in Requirement(line).specifier}
        assert operators == {'>=', '<'}, line


# Folders that may import the packages of an extra. Other code imports them with `require`.
EXTRAS_OF = {
    'mmkdml/experiments': ['experiments'],
    'mmkdml/apis/export': ['export'],
    'mmkdml/evaluation/boxes/coco.py': ['detection'],
    'benchmarks': ['all'],
    'tools': ['all'],
}


def imported_modules(path):
    """Yield line and top-level name of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module]
        for name in names:
            yield node.lineno, name.partition('.')[0]


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason='Python 3.10 does not map modules to distributions'
)
def test_every_import_is_declared(setup_arguments):
    own = {path.stem for path in ROOT.glob('tools/**/*.py')}
    own |= {'benchmarks', 'configs', 'mmkdml', 'tools', 'problem', 'serve'}
    # Scripts for other environments.
    own |= {
        path.stem.removesuffix('_peer') for path in ROOT.glob('benchmarks/peer_scripts/*_peer.py')
    }
    distributions = packages_distributions()
    for path in chain.from_iterable(
        ROOT.glob(f'{folder}/**/*.py') for folder in ('mmkdml', 'benchmarks', 'tools')
    ):
        lines = [*setup_arguments['install_requires'], MMDET]
        for folder, extras in EXTRAS_OF.items():
            if path.is_relative_to(ROOT / folder):
                lines += chain(*(setup_arguments['extras_require'][extra] for extra in extras))
        declared = {canonicalize_name(Requirement(line).name) for line in lines}
        for line, module in imported_modules(path):
            if module not in own | sys.stdlib_module_names:
                owners = {canonicalize_name(name) for name in distributions.get(module, [])}
                assert owners & declared, f'{path}:{line} imports {module}'


def test_extra_all_and_tests_include_the_other_extras(setup_arguments):
    extras = setup_arguments['extras_require']
    for name in ('experiments', 'analysis', 'export', 'medical', 'detection'):
        assert set(extras[name]) <= set(extras['all']) <= set(extras['test'])
        assert not set(extras[name]) & set(setup_arguments['install_requires'])


def test_extras_in_messages_exist(setup_arguments):
    """``require`` and ``check_extra`` name an extra that installs the module."""
    for path in ROOT.glob('mmkdml/**/*.py'):
        for extra in re.findall(
            r"(?<!ConfigDict\()extra='(\w+)'", path.read_text(encoding='utf-8')
        ):
            assert extra in setup_arguments['extras_require'], path


def test_hooks_use_the_declared_ruff(setup_arguments):
    (ruff,) = (line for line in setup_arguments['extras_require']['dev'] if 'ruff' in line)
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert set(re.findall(r"'(ruff\W.*?)'", hooks)) == {ruff}


def test_readme_is_short():
    assert (ROOT / 'README.md').stat().st_size <= 6_500


FAKE_PYTHON = """#!/bin/sh
# Logs its arguments; has the modules {modules} and torch 2.9.1 of CUDA 12.8.
echo "$*" >> {log}
case "$*" in
    *'version("torch")'*) echo torch==2.9.1+cu128;;
    *'find_spec("'*)
        for module in {modules}; do case "$*" in *"(\\"$module\\")"*) exit 0;; esac; done
        exit 1;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Return a function that runs make with a fake Python and returns the calls of pip."""
    if shutil.which('make') is None:
        pytest.skip('make is not installed')
    log, environment = tmp_path / 'log', tmp_path / 'venv'

    def run(*arguments, modules):
        python = environment / 'bin/python'
        if not python.exists():
            python.parent.mkdir(parents=True)
            python.write_text(FAKE_PYTHON.format(modules=modules, log=log))
            python.chmod(0o755)
        log.write_text('')
        # The environment may contain TORCH, or MAKEFLAGS of a make that runs the tests.
        subprocess.run(
            ['make', *arguments, f'VENV={environment}'],
            cwd=ROOT,
            env={'PATH': os.environ['PATH']},
            check=True,
            capture_output=True,
        )
        return [line for line in log.read_text().splitlines() if ' install ' in line]

    run.constraints = environment / '.mmkdml-constraints.txt'
    return run


def test_make_installs_torch_and_the_matching_torchvision_first(make):
    torch, torchvision, project, mmdet = make('install', modules='none')
    assert torch.endswith(' install torch==2.13.0')
    assert torchvision.endswith(f'-c {make.constraints} torchvision==0.24.*')
    assert project.endswith(f'-c {make.constraints} -e .[test]')
    assert mmdet.endswith(f' install --no-deps {MMDET}')
    assert make.constraints.read_text() == 'torch==2.9.1+cu128\n'


def test_make_keeps_an_installed_torch(make):
    torchvision, project, _ = make('install', modules='torch')
    assert 'torchvision==0.24.*' in torchvision
    assert project.endswith(f'-c {make.constraints} -e .[test]')
    assert make.constraints.read_text() == 'torch==2.9.1+cu128\n'


def test_make_keeps_installed_packages_and_installs_once(make):
    assert len(make('install', modules='torch torchvision mmdet')) == 1
    assert make('install', modules='torch torchvision mmdet') == []


def test_make_without_mmdet(make):
    (project,) = make('install', 'PROJECT=mine.whl', 'MMDET=', modules='torch torchvision')
    assert project.endswith(' mine.whl')


def test_make_installs_the_given_torch(make):
    torch, torchvision, *_ = make('install', 'TORCH=torch==2.9.1', 'TORCHVISION=tv', modules='none')
    assert torch.endswith(' install torch==2.9.1')
    assert torchvision.endswith(' tv')
