"""mmkdml comes first: importing it makes torchvision importable beside a CPU build of torch."""

import signal
from collections import OrderedDict

import pytest
from matplotlib.figure import Figure
from mmengine.registry import DefaultScope

import mmkdml  # noqa: F401
from mmkdml.engine import keep_freed_memory

# As a run on a CPU does: a good part of a short step is fetching memory.
keep_freed_memory()


def pytest_collection_modifyitems(items):
    """Begins with the tools' tests: one that takes a minute at the end leaves the others idle."""
    items.sort(key=lambda item: item.path.parent.name != 'tools')


@pytest.fixture(autouse=True)
def nothing_left_behind(monkeypatch):
    """What a run sets for its whole process ends with its test, so that no later one depends on it.

    A default scope is where names are looked up, and the variable makes ``torch.load`` refuse all
    but weights.
    """
    monkeypatch.setattr(DefaultScope, '_instance_dict', OrderedDict())
    monkeypatch.setenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD', '')  # noted, to be put back
    monkeypatch.delenv('TORCH_FORCE_WEIGHTS_ONLY_LOAD')


@pytest.fixture(autouse=True)
def keys_are_heard():
    """Ctrl-C works as in a terminal, also where the tests themselves run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def figure(monkeypatch):
    """The figures that are written, to be looked into."""
    figures = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, 'savefig', lambda self, path: (figures.append(self), save(self, path))
    )
    return figures


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), 'w')


@pytest.fixture
def payload():
    """Of a path: an object that makes this file when it is unpickled."""
    return Payload
