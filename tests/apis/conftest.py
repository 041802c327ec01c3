"""Networks of the demo, and images to predict."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmkdml.apis import load, load_config
from mmkdml.registry import MODELS

DEMO = Path(__file__).parents[2] / 'configs' / 'demo'


@pytest.fixture(scope='session')
def checkpoints(tmp_path_factory):
    """Write a checkpoint of random weights for each config."""
    folder = tmp_path_factory.mktemp('checkpoints')
    files = {}
    for config in (DEMO / 'kdml_v3_demo.py', DEMO / 'kdml_v3_demo_slices.py'):
        torch.manual_seed(0)
        files[config] = folder / f'{config.stem}.pth'
        state = MODELS.build(load_config(config).model).state_dict()
        meta = dict(dataset_meta=dict(classes=('healthy', 'ill')))
        torch.save(dict(state_dict=state, meta=meta), files[config])
    return files


@pytest.fixture(scope='session')
def predictors(checkpoints):
    return {config.stem: load(config, file, 'cpu') for config, file in checkpoints.items()}


@pytest.fixture
def segmentor(predictors):
    return predictors['kdml_v3_demo']


@pytest.fixture
def pictures(tmp_path):
    """Write ``one.png``, ``sub/two.jpg`` and a stack of three images, 40 x 50."""
    path = tmp_path / 'images'
    (path / 'sub').mkdir(parents=True)
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)) for _ in range(3)]
    pages[0].save(path / 'one.png')
    pages[1].copy().save(path / 'sub' / 'two.jpg')  # saving as JPEG changes the image
    pages[0].save(path / 'stack.tif', save_all=True, append_images=pages[1:])
    return path
