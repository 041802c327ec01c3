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

    def call(failing=''):
        done = subprocess.run(
            [tmp_path / 'checkout' / '.ci' / 'run'],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={
                **os.environ,
                'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}',
                'TMPDIR': str(tmp_path / 'tmp'),
                'VENV': '/somebodys/environment',
                'FAILING': failing,
            },
        )
        assert not list((tmp_path / 'tmp').iterdir())  # cleaned up
        return done

    call.checkout = tmp_path / 'checkout'
    return call


def test_clone_is_tested_in_folders_that_python_cannot_import(run):
    done = run()
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert [line.split(':')[0] for line in lines] == ['make test', 'make check']
    assert all('/try/my-projects/mmkdml-main, VENV=none, committed' in line for line in lines)
    assert done.stderr == ''


@pytest.mark.parametrize(('failing', 'calls'), [('test', 1), ('check', 2)])
def test_failure_of_make_fails(run, failing, calls):
    done = run(failing)
    assert done.returncode != 0
    assert len(done.stdout.splitlines()) == calls


def test_uncommitted_changes_are_reported_and_not_tested(run):
    (run.checkout / 'file').write_text('changed')
    done = run()
    assert 'not tested' in done.stderr
    assert 'changed' not in done.stdout
