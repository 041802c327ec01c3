"""Networks of the demo to export."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config, ConfigDict

from mmkdml.apis import load_config
from mmkdml.apis.export.source import ExportSource, load_source
from mmkdml.inspection import inspect_config
from mmkdml.inspection.config import Inspection
from mmkdml.models.ensembles import max_ensemble
from mmkdml.models.tasks import detection_task

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


@pytest.fixture(scope='session')
def detector_source(detector):
    """Return a function that builds a small detector to export, with scores from 0 to 1."""
    from mmdet.models.data_preprocessors import DetDataPreprocessor

    def make(name, nms=False):
        network = detector(name).eval()
        head = network.bbox_head
        head.test_cfg = ConfigDict(head.test_cfg, score_thr=0.1)
        for key, value in head.named_parameters():
            if 'cls' in key and value.ndim == 4:  # untrained heads predict 0.01 for all
                torch.nn.init.normal_(value, std=0.1)
            elif 'rtm_reg' in key and value.ndim == 1:  # otherwise no box has an area
                torch.nn.init.constant_(value, 1.0)
        if name == 'yolox':  # its boxes would be infinite
            network.data_preprocessor = DetDataPreprocessor([0.0] * 3, [255.0] * 3, pad_value=0.5)
        network.data_preprocessor.pad_size_divisor = 32
        return ExportSource(
            name=f'{name}-model',
            what='model',
            config=Config(),
            checkpoint=Path('x.pth'),
            meta={},
            inspection=Inspection({'model': network}, detection_task(), (70, 100)),
            members={'model': network},
            ensemble=max_ensemble,
            threshold=0.5,
            preprocessor=network.data_preprocessor,
            nms=nms,
        )

    return make
