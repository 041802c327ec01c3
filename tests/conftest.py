"""mmkdml comes first: importing it makes torchvision importable beside a CPU build of torch."""

import signal
from collections import OrderedDict

import pytest
from mmengine.registry import DefaultScope

import mmkdml  # noqa: F401


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
