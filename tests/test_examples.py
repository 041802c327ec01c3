"""The examples in docstrings run and print what they show."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = [
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in sorted((ROOT / 'mmkdml').rglob('*.py'))
    if '>>> ' in path.read_text(encoding='utf-8')
]


@pytest.mark.parametrize('name', MODULES)
def test_docstrings(name):
    package = importlib.import_module(name.rpartition('.')[0])
    # Names of its own package need no import in an example.
    known = {key: getattr(package, key) for key in getattr(package, '__all__', ())}
    failed, tried = doctest.testmod(importlib.import_module(name), extraglobs=known)
    assert tried > 0
    assert failed == 0


def test_functional_examples_exist():
    assert sum(name.startswith('mmkdml.functional.') for name in MODULES) >= 7
