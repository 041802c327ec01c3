"""Made-up sources, and the converters' tools run on them."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOLS = Path(__file__).parents[3] / 'tools' / 'dataset_converters'


@pytest.fixture(scope='session')
def save():
    """Writes pixels as an image; further arguments are those of Pillow."""

    def save(path, pixels, **kwargs):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **kwargs)

    return save


@pytest.fixture(scope='session')
def files_in():
    """Content of every file below a folder."""
    return lambda folder: {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()
    }


@pytest.fixture
def run_tool(monkeypatch):
    """Runs a converter's tool of this name with these arguments in this process."""

    def run(name, *args):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        runpy.run_path(str(TOOLS / name), run_name='__main__')

    return run
