"""``.ci/release``: its checks of versions, and the wheel that it builds, installs and uses.

The external project, which it checks with the wheel, is checked here with this repository.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEADING = '## [1.2.0] - 2026-01-31'
TAG = {'GITHUB_REF_TYPE': 'tag', 'GITHUB_REF_NAME': 'v1.2.0'}

pytestmark = pytest.mark.skipif(shutil.which('git') is None, reason='git is not installed')


@pytest.fixture
def release(tmp_path):
    """Return a function that runs the script on a small repository, with a Python that fails."""
    for name, text in {
        'mmkdml/version.py': "__version__ = '1.2.0'\n",
        'CITATION.cff': 'version: 1.2.0\n',
        'CHANGELOG.md': f'# Changelog\n\n{HEADING}\n\n## [1.1.0] - 2025-12-24\n',
        'python': '#!/bin/sh\necho "python $*"\nexit 3\n',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / 'python').chmod(0o755)
    (tmp_path / '.ci').mkdir()
    shutil.copy(ROOT / '.ci' / 'release', tmp_path / '.ci')
    subprocess.run(['git', 'init', '--quiet'], cwd=tmp_path, check=True)

    def run(changes=(), **environment):
        for name, before, after in changes:
            text = (tmp_path / name).read_text()
            assert before in text
            (tmp_path / name).write_text(text.replace(before, after))
        return subprocess.run(
            [tmp_path / '.ci' / 'release', './python'],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, 'DIST': str(tmp_path / 'dist'), **environment},
        )

    return run


@pytest.mark.parametrize('environment', [{}, TAG])
def test_build_starts_after_the_checks_and_its_failure_fails(release, environment):
    done = release(**environment)
    assert done.returncode == 1
    assert '1.2.0, changelog: [1.2.0] - 2026-01-31' in done.stdout
    assert 'python -m build --no-isolation' in done.stderr  # the log of the build


@pytest.mark.parametrize(
    ('changes', 'environment', 'message'),
    [
        ([('CITATION.cff', '1.2.0', '1.1.0')], {}, 'CITATION.cff: expected version 1.2.0'),
        ([], {**TAG, 'GITHUB_REF_NAME': 'v1.3.0'}, 'Tag v1.3.0: expected v1.2.0'),
        (
            [('CHANGELOG.md', '2026-01-31', 'unreleased')],
            TAG,
            'expected a date, got ## [1.2.0] - unreleased',
        ),
        ([('CHANGELOG.md', '[1.2.0]', '[1x2.0]')], TAG, 'expected a date, got ## [1x2.0]'),
    ],
)
def test_different_versions_are_refused_before_the_build(release, changes, environment, message):
    done = release(changes, **environment)
    assert done.returncode == 1
    assert message in done.stderr
    assert 'build' not in done.stderr


@pytest.fixture(scope='module')
def output(tmp_path_factory):
    """Output of the script, which reuses the packages of this environment."""
    pytest.importorskip('build')
    pytest.importorskip('twine')
    dist = tmp_path_factory.mktemp('dist')
    done = subprocess.run(
        [ROOT / '.ci' / 'release', sys.executable, 'demo'],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'DIST': str(dist), 'GITHUB_REF_TYPE': ''},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(dist.iterdir())) == 2
    return done.stdout


@pytest.mark.slow
def test_demo_of_the_wheel_ends_with_the_table_of_members(output):
    demo = output.partition('\n$ mmkdml convert demo')[2].partition('\n== ')[0]
    assert '$ mmkdml train mmkdml::demo/kdml_v3_demo.py' in demo
    lines = demo.splitlines()
    assert len(lines) < 60
    names = [line.split()[0] for line in lines if line.strip()]
    start = len(names) - 1 - names[::-1].index('member') + 2  # below the heading and its line
    assert names[start : start + 4] == ['teacher', 'student_1', 'student_2', 'ensemble']
    assert 'Look at work_dirs/demo/summary.html and work_dirs/demo/panels/panels.png' in lines


# Checkpoint of each config, and whether its weights differ from those of classroom.py.
FEATURES = dict(
    classroom=('epoch_2.pth', False),
    hooks=('epoch_2.pth', True),  # of four epochs
    four_channels=('epoch_2.pth', True),
    layer_decay=('epoch_2.pth', True),
    multi_label=('epoch_2.pth', True),
    vit_teacher=('epoch_2.pth', True),
)


@pytest.fixture(scope='module')
def project(run_scripts, tmp_path_factory):
    """Output of the external project, which the script checks with the wheel for releases."""
    folder = tmp_path_factory.mktemp('project') / 'external_project'
    shutil.copytree(ROOT / 'tests' / 'external_project', folder)
    return run_scripts((folder / 'check.py', '--compare'))[0]


@pytest.mark.slow
@pytest.mark.parametrize('name', FEATURES)
def test_external_project(project, name):
    """A student without transfers gets the weights of a plain training, bit for bit."""
    lines = re.findall(r'^configs/(\w+)\.py: (\S+) (\w+) equals that of a plain', project, re.M)
    found = {config: (checkpoint, digest) for config, checkpoint, digest in lines}
    checkpoint, differs = FEATURES[name]
    assert found[name][0] == checkpoint
    assert (found[name][1] != found['classroom'][1]) == differs


def test_every_config_of_the_external_project_is_expected():
    configs = ROOT.glob('tests/external_project/configs/*.py')
    assert {path.stem for path in configs} == set(FEATURES)
