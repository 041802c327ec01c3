"""Packaging: one version, bounded dependencies, and a Makefile that keeps what is there."""

import ast
import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mmkdml

ROOT = Path(__file__).parents[1]


@pytest.fixture
def setup_arguments(monkeypatch):
    """What setup.py hands to setuptools."""
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
    """A forgotten ``__init__.py`` works from a clone and is missing once installed."""
    folders = {path.parent.relative_to(ROOT) for path in ROOT.glob('mmkdml/**/*.py')}
    assert set(setup_arguments['packages']) == {'.'.join(folder.parts) for folder in folders}


def test_dependencies_are_bounded_on_both_sides(setup_arguments):
    extras = setup_arguments['extras_require'].values()
    for line in sum(extras, setup_arguments['install_requires']):
        operators = {specifier.operator for specifier in Requirement(line).specifier}
        assert operators == {'>=', '<'}, line


@pytest.mark.skipif(
    sys.version_info < (3, 11), reason='Python 3.10 does not know whose modules are'
)
def test_every_import_is_declared(setup_arguments):
    """What mmkdml and its tools import comes with ``pip install mmkdml``, not by luck."""
    declared = {
        canonicalize_name(Requirement(line).name) for line in setup_arguments['install_requires']
    }
    own = {path.stem for path in ROOT.glob('tools/**/*.py')}
    own |= {'benchmarks', 'configs', 'mmkdml', 'tools', 'problem', 'serve'}
    # Run in environments of their own.
    own |= {
        path.stem.removesuffix('_peer') for path in ROOT.glob('benchmarks/peer_scripts/*_peer.py')
    }
    distributions = packages_distributions()
    for path in chain.from_iterable(
        ROOT.glob(f'{f}/**/*.py') for f in ('mmkdml', 'benchmarks', 'tools')
    ):
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.Import):
                modules = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = {node.module}
            else:
                continue
            for module in {name.partition('.')[0] for name in modules} - own:
                if module not in sys.stdlib_module_names:
                    owners = {canonicalize_name(name) for name in distributions.get(module, [])}
                    assert owners & declared, f'{path}:{node.lineno} imports {module}'


def test_hooks_use_the_declared_ruff(setup_arguments):
    (ruff,) = (line for line in setup_arguments['extras_require']['dev'] if 'ruff' in line)
    hooks = (ROOT / '.pre-commit-config.yaml').read_text()
    assert set(re.findall(r"'(ruff\W.*?)'", hooks)) == {ruff}


def test_readme_is_short():
    assert (ROOT / 'README.md').stat().st_size <= 6_500


FAKE_PYTHON = """#!/bin/sh
# Notes what it is asked for; has the modules {modules} and torch 2.9.1 of CUDA 12.8.
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
    """Runs make on an environment whose Python is a fake; returns what pip was asked for."""
    if shutil.which('make') is None:
        pytest.skip('needs make')
    log, environment = tmp_path / 'log', tmp_path / 'venv'

    def run(*arguments, modules):
        python = environment / 'bin/python'
        if not python.exists():
            python.parent.mkdir(parents=True)
            python.write_text(FAKE_PYTHON.format(modules=modules, log=log))
            python.chmod(0o755)
        log.write_text('')
        # Without our environment: it may hold TORCH, or MAKEFLAGS of a make that runs the tests.
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


def test_make_installs_torch_first_and_the_torchvision_made_for_it(make):
    torch, torchvision, project = make('install', modules='none')
    assert torch.endswith(' install torch==2.13.0')
    assert torchvision.endswith(f'-c {make.constraints} torchvision==0.24.*')
    assert project.endswith(f'-c {make.constraints} -e .[test]')
    assert make.constraints.read_text() == 'torch==2.9.1+cu128\n'


def test_make_keeps_a_torch_that_is_there(make):
    torchvision, project = make('install', modules='torch')
    assert 'torchvision==0.24.*' in torchvision
    assert project.endswith(f'-c {make.constraints} -e .[test]')
    assert make.constraints.read_text() == 'torch==2.9.1+cu128\n'


def test_make_keeps_a_torchvision_that_is_there_and_installs_once(make):
    assert len(make('install', modules='torch torchvision')) == 1
    assert make('install', modules='torch torchvision') == []


def test_make_takes_the_torch_asked_for(make):
    torch, torchvision, _ = make('install', 'TORCH=torch==2.9.1', 'TORCHVISION=tv', modules='none')
    assert torch.endswith(' install torch==2.9.1')
    assert torchvision.endswith(' tv')
