"""Fixtures that write source files and run the converters' tools."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOLS = Path(__file__).parents[3] / 'tools' / 'dataset_converters'


@pytest.fixture(scope='session')
def save():
    """Function that saves pixels as an image, with arguments of Pillow."""

    def save(path, pixels, **kwargs):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels, np.uint8)).save(path, **kwargs)

    return save


@pytest.fixture(scope='session')
def files_in():
    """Function that returns the content of all files in a folder."""
    return lambda folder: {
        p.relative_to(folder): p.read_bytes() for p in folder.rglob('*') if p.is_file()
    }


@pytest.fixture
def run_tool(monkeypatch):
    """Function that runs a converter's tool in this process."""

    def run(name, *args):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        runpy.run_path(str(TOOLS / name), run_name='__main__')

    return run
