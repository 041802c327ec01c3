"""Networks of the demo to export."""

from pathlib import Path

import pytest
import torch

from mmkdml.apis import load_config
from mmkdml.apis.export.source import load_source
from mmkdml.inspection import inspect_config

DEMO = Path(__file__).parents[3] / 'configs' / 'demo'


@pytest.fixture(scope='session')
def random_source(tmp_path_factory):
    """Return a function that writes a checkpoint of random weights and loads it for an export."""

    def make(config, what, options=None, meta=None, size=(64, 64)):
        torch.manual_seed(0)
        if isinstance(config, str):
            config = load_config(DEMO / f'{config}.py', options)
        inspection = inspect_config(config)
        state = (inspection.distiller or inspection.members['model']).state_dict()
        path = tmp_path_factory.mktemp('run') / 'x.pth'
        content = dict(state_dict=state, optimizer=dict(state={}), meta=dict(dataset_meta=meta))
        torch.save(content, path)
        return load_source(config, path, what, size)

    return make
