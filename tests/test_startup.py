"""Modules that are imported at start-up, which decide how long it takes."""

import ast
import importlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

import mmkdml.apis.export
from mmkdml import apis, experiments
from mmkdml.apis.runs import IMAGE_CACHE
from mmkdml.experiments import SuiteStore, load_suite

ROOT = Path(__file__).parents[1]
TOOLS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ('tools', 'tools/analysis', 'tools/dataset_converters')
    for path in (ROOT / folder).glob('*.py')
)
FRAMEWORKS = {'torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmseg'}
HEAVY = FRAMEWORKS | {'numpy', 'pandas', 'matplotlib', 'sqlalchemy', 'optuna', 'scipy', 'cv2'}
# Runs a script as `python SCRIPT ...` does, then writes the names of all modules to a file.
RUN = """
import atexit, json, runpy, sys
out, script, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
atexit.register(lambda: open(out, 'w').write(json.dumps(list(sys.modules))))
runpy.run_path(script, run_name='__main__')
"""


@pytest.fixture
def imported(tmp_path):
    """Return a function that runs a script and returns the heavy modules that it imported."""

    def run(script, *args):
        out = tmp_path / 'modules.json'
        done = subprocess.run(
            [sys.executable, '-c', RUN, out, script, *args],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
        )
        assert done.returncode == 0, done.stderr
        return HEAVY & set(json.loads(out.read_text())), done.stdout

    return run


def test_importing_mmkdml_imports_nothing_heavy(imported, tmp_path):
    script = tmp_path / 'script.py'
    script.write_text('import mmkdml, mmkdml.apis, mmkdml.apis.cli, mmkdml.experiments')
    assert imported(script)[0] == set()


@pytest.mark.parametrize('tool', TOOLS)
def test_help_imports_nothing_heavy(imported, tool):
    modules, text = imported(tool, '--help')
    assert modules == set()
    assert text.startswith(f'usage: {Path(tool).name}')


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (['--version'], f'mmkdml {mmkdml.__version__}\n'),
        (['--help'], 'usage: mmkdml COMMAND'),
        (['convert', '--help'], 'usage: mmkdml convert COMMAND'),
        (['train', '--help'], 'usage: mmkdml train '),
    ],
)
def test_help_of_command_imports_nothing_heavy(imported, words, text):
    modules, output = imported('mmkdml/__main__.py', *words)
    assert modules == set()
    assert output.startswith(text)


def test_status_of_suite_imports_no_framework(imported, tmp_path):
    path = tmp_path / 'suite.py'
    path.write_text(
        'from mmkdml.experiments import variant_runs\n'
        'title, measures, seeds = "Small", ["IoU"], [0]\n'
        'runs = [dict(name="teacher", config="configs/demo/teacher_demo.py"),\n'
        '        *variant_runs("configs/demo/kdml_v3_demo.py", "teacher", "Table 4")]\n'
    )
    suite, store = load_suite(path), SuiteStore.in_folder(tmp_path)
    store.register(suite.runs, dict.fromkeys((run.name for run in suite.runs), '{}'))
    with sqlite3.connect(tmp_path / 'suite.db') as database:
        database.execute("update runs set state = 'running', started = 0 where position = 0")
    (tmp_path / suite.runs[0].key).mkdir(parents=True)
    (tmp_path / suite.runs[0].key / 'epoch_2.pth').touch()
    modules, text = imported('tools/suite.py', 'status', path, '--work-dir', tmp_path)
    assert modules & FRAMEWORKS == set()
    assert 'epoch_2 saved' in text


@pytest.mark.parametrize('package', [apis, apis.export, experiments])
def test_lazy_exports(package):
    for name in package.__all__:
        assert getattr(package, name) is vars(package)[name]  # found, and looked up only once
    assert set(package.__all__) <= set(dir(package))
    with pytest.raises(AttributeError, match=f"'{package.__name__}' has no attribute 'nonsense'"):
        package.nonsense  # noqa: B018


@pytest.mark.parametrize('package', [apis, apis.export, experiments])
def test_type_checkers_see_the_lazy_exports(package):
    tree = ast.parse(Path(package.__file__).read_text())
    imports = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module not in ('typing', 'mmkdml.lazy')
        for alias in node.names
        if alias.name != 'check_extra'
    }
    assert set(imports) == set(package.__all__)
    for name, module in imports.items():
        assert getattr(package, name) is getattr(importlib.import_module(module), name)


def test_subpackages_are_imported_on_first_use():
    assert mmkdml.models.MODES == ('ml', 'kd_off', 'kd_on', 'kdml')
    assert {path.parent.name for path in ROOT.glob('mmkdml/*/__init__.py')} <= set(dir(mmkdml))
    with pytest.raises(AttributeError, match='nonsense'):
        mmkdml.nonsense  # noqa: B018


@pytest.mark.parametrize(
    ('tool', 'option', 'constant'),
    [
        ('tune', '--sampler', 'mmkdml.experiments.tuning.tuner.SAMPLERS'),
        ('tune', '--pruner', 'mmkdml.experiments.tuning.tuner.PRUNERS'),
        ('suite', '--checkpoint', 'mmkdml.experiments.CHECKPOINTS'),
        ('suite', '--format', 'mmkdml.experiments.FORMS'),
        ('predict', '--plane', 'mmkdml.apis.prediction.nifti.PLANES'),
        ('export', '--format', 'mmkdml.apis.export.formats.FORMATS'),
        ('analysis/panels', '--by', 'mmkdml.analysis.hard_cases.CRITERIA'),
        ('dataset_converters/lgg', '--masks-drawn-on', 'mmkdml.datasets.images.DRAWN_ON'),
    ],
)
def test_choices_of_options_are_those_of_the_library(imported, tool, option, constant):
    """Tools repeat them, because importing the library takes longer than printing the help."""
    command = ['table'] if tool == 'suite' else []
    _, text = imported(f'tools/{tool}.py', *command, '--help')
    choices = re.search(rf'\[?{option} \{{(.+?)\}}', text)[1].split(',')
    module, _, name = constant.rpartition('.')
    expected = list(getattr(importlib.import_module(module), name))
    assert choices == expected + (['seeds', 'folds'] if 'FORMS' in constant else [])


def test_default_image_cache_is_that_of_the_library(imported):
    _, text = imported('tools/train.py', '--help')
    assert f'default DIR: {IMAGE_CACHE}' in ' '.join(text.split())
