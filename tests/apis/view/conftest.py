"""Test splits of the demo's networks with random weights."""

import copy

import pytest

from mmkdml.apis.prediction import Predictor


@pytest.fixture
def split_predictor(predictors, slices):
    """Return a function that gives a predictor the synthetic slices as its test split."""

    def build(name='kdml_v3_demo'):
        own = predictors[name]
        config = copy.deepcopy(own.config)
        source, split = slices
        config.test_dataloader.dataset.update(data_root=str(source), ann_file=str(split))
        return Predictor(own.model, config, own.classes, own.checkpoint)

    return build
