"""The demo itself is run by ``tests/test_release.py``."""

import runpy
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


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
