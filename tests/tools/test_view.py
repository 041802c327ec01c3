"""Command line of view: one-line errors; tests/apis/view tests the page."""

import importlib.util
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[2] / 'configs' / 'demo' / 'kdml_v3_demo.py'


@pytest.fixture
def view(tool):
    def run(*args):
        tool('view', *args, '--no-browser', '--port', 0, experiment=False)

    return run


def test_unknown_run(view, tmp_path):
    with pytest.raises(SystemExit, match=r'^view\.py: error: .*none'):
        view(tmp_path / 'none')


def test_missing_package(view, checkpoint, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, 'find_spec', lambda name, *rest: None if name == 'gradio' else find(name)
    )
    with pytest.raises(SystemExit, match=r"gradio is not installed. Run: pip .*'mmkdml\[view\]'"):
        view(CONFIG, checkpoint)


def test_missing_images_and_truth(view, checkpoint, tmp_path):
    pytest.importorskip('gradio')
    with pytest.raises(SystemExit, match=r'^view\.py: error: No such image or folder: .*none\.png'):
        view(CONFIG, checkpoint, tmp_path / 'none.png')
    with pytest.raises(SystemExit, match='--truth: expected images'):
        view(CONFIG, checkpoint, '--truth', tmp_path)
