"""Fixture that evaluates a metric."""

import pytest
from mmengine.evaluator import Evaluator


@pytest.fixture(scope='session')
def run():
    """Function that returns the values of a metric for some samples."""

    def run(metric, samples, meta=None, batch=2):
        evaluator = Evaluator(metric)
        evaluator.dataset_meta = meta
        for start in range(0, len(samples), batch):
            evaluator.process(samples[start : start + batch], None)
        return evaluator.evaluate(len(samples))

    return run
