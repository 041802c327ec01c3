"""Demo runs with random weights and 16 synthetic slices of 64x64."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from mmkdml.registry import MODELS

DEMO = Path(__file__).parents[2] / 'configs' / 'demo'
MASKS, CLASSES = 'kdml_v3_demo', 'kdml_v3_demo_slices'


@pytest.fixture(scope='session')
def opened(slices):
    """Function that returns model and loader of a demo config with inputs of 32x32 pixels."""

    def run(name, seed=0):
        config = Config.fromfile(DEMO / f'{name}.py')
        root, ann_file = slices
        loader = config.test_dataloader
        loader.dataset.update(data_root=str(root), ann_file=str(ann_file))
        loader.dataset.pipeline[1].update(scale=(32, 32))
        loader.batch_size = 5
        config.model.input_size = (32, 32)
        torch.manual_seed(seed)
        model = MODELS.build(config.model)
        for member in model.named_members().values():
            # Large weights in the last layer, because predictions of random ones hardly differ.
            last = member.decode_head.conv_seg if name == MASKS else member.head.fc
            last.weight.data.normal_(std=20 if name == MASKS else 1)
        return model.eval(), Runner.build_dataloader(loader)

    return run


@pytest.fixture(scope='session')
def masks(opened):
    return opened(MASKS)


@pytest.fixture(scope='session')
def classes(opened):
    return opened(CLASSES)
