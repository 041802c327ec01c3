import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_demo(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            ROOT / 'tools' / 'demo.py',
            '--out',
            tmp_path / 'run',
            '--data',
            tmp_path / 'data',
            '--epochs',
            '1',
            '--patients',
            '6',
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip()
    lines = done.stdout.splitlines()
    assert len(lines) < 60
    names = [line.split()[0] for line in lines if line]
    start = len(names) - 1 - names[::-1].index('member') + 2  # below the heading and its line
    assert names[start : start + 4] == ['teacher', 'student_1', 'student_2', 'ensemble']
    for name in ('panels/panels.png', 'summary.html', 'results.csv'):
        assert (tmp_path / 'run' / name).is_file()


@pytest.mark.parametrize('option', ['--out', '--data'])
def test_other_folders_are_not_deleted(tmp_path, monkeypatch, capsys, option):
    precious = tmp_path / 'mine' / 'kaggle_3m' / 'precious.txt'
    precious.parent.mkdir(parents=True)
    precious.write_text('a user wrote it')
    places = {'--out': tmp_path / 'run', '--data': tmp_path / 'data', option: tmp_path / 'mine'}
    words = [str(word) for pair in places.items() for word in pair]
    monkeypatch.setattr(sys, 'argv', ['demo.py', *words])
    with pytest.raises(SystemExit, match='2'):
        runpy.run_path(str(ROOT / 'tools' / 'demo.py'), run_name='__main__')
    assert f'{tmp_path / "mine"} was not created by this demo' in capsys.readouterr().err
    assert precious.read_text() == 'a user wrote it'
