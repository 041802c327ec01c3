"""``.ci/run`` with a fake ``make`` that prints its arguments."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(shutil.which('git') is None, reason='git is not installed')
SCRIPT = Path(__file__).parents[1] / '.ci' / 'run'
MAKE = """\
#!/bin/sh
echo "make $*: $PWD, VENV=${VENV-none}, $(cat file)"
[ "$1" != "$FAILING" ]
"""


APT = """\
#!/bin/sh
echo "apt-get $*" >&2
[ "$1" != install ] || ln -s /bin/true "${0%/*}/chromium"
"""
# The only programs in PATH.
PROGRAMS = ('bash', 'sh', 'env', 'git', 'dirname', 'mktemp', 'rm', 'cat', 'id', 'timeout', 'ln')


@pytest.fixture
def run(tmp_path):
    def git(*words):
        names = ('-c', 'user.name=x', '-c', 'user.email=x@example.org')
        subprocess.run(['git', *names, *words], cwd=tmp_path / 'checkout', check=True)

    for folder in ('checkout/.ci', 'bin', 'tmp'):
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(SCRIPT, tmp_path / 'checkout' / '.ci' / 'run')
    (tmp_path / 'checkout' / 'file').write_text('committed')
    git('init', '--quiet')
    git('add', '.')
    git('commit', '--quiet', '--message', 'x')
    (tmp_path / 'bin' / 'make').write_text(MAKE)
    (tmp_path / 'bin' / 'make').chmod(0o755)
    for name in PROGRAMS:
        (tmp_path / 'bin' / name).symlink_to(shutil.which(name))
    (tmp_path / 'bin' / 'chromium').symlink_to(shutil.which('true'))

    def call(failing=''):
        done = subprocess.run(
            [tmp_path / 'checkout' / '.ci' / 'run'],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={
                **os.environ,
                'PATH': str(tmp_path / 'bin'),
                'TMPDIR': str(tmp_path / 'tmp'),
                'VENV': '/somebodys/environment',
                'FAILING': failing,
            },
        )
        assert not list((tmp_path / 'tmp').iterdir())  # cleaned up
        return done

    call.checkout, call.programs = tmp_path / 'checkout', tmp_path / 'bin'
    return call


def test_clone_is_tested_in_folders_that_python_cannot_import(run):
    done = run()
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split(':')[0] for line in lines] == ['make test', 'make check', 'make test-view']
    assert all('/try/my-projects/mmkdml-main, VENV=none, committed' in line for line in lines)
    assert done.stderr == ''


@pytest.mark.parametrize(('failing', 'calls'), [('test', 1), ('check', 2), ('test-view', 3)])
def test_failure_of_make_fails(run, failing, calls):
    done = run(failing)
    assert done.returncode != 0
    assert len(done.stdout.splitlines()) == calls


def test_uncommitted_changes_are_reported_and_not_tested(run):
    (run.checkout / 'file').write_text('changed')
    done = run()
    assert 'not tested' in done.stderr
    assert 'changed' not in done.stdout


@pytest.mark.parametrize('can_install', [True, False])
def test_missing_browser_is_installed_by_root_or_reported(run, can_install):
    (run.programs / 'chromium').unlink()
    (run.programs / 'id').unlink()
    (run.programs / 'id').write_text(f'#!/bin/sh\necho {0 if can_install else 1000}')
    (run.programs / 'apt-get').write_text(APT)
    for name in ('id', 'apt-get'):
        (run.programs / name).chmod(0o755)
    done = run()
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 3
    assert ('apt-get install --yes chromium' in done.stderr) == can_install
    assert ('no chromium' in done.stderr) == (not can_install)
