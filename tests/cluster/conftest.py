"""Real schedulers and databases on this machine; `make cluster-test` runs them."""

import os
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER))  # for the helpers next to the tests


def pytest_collection_modifyitems(items):
    if os.environ.get('MMKDML_CLUSTER_TEST') != '1':
        for item in items:
            if item.path.parent == FOLDER:
                item.add_marker(pytest.mark.skip(reason='only `make cluster-test` runs it'))
