from types import SimpleNamespace

import matplotlib.image
import pandas as pd
import pytest
import torch

# isort: split
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmpretrain.structures import DataSample

from mmkdml.engine import ReliabilityHook
from mmkdml.evaluation import Calibration, Diversity
from mmkdml.registry import HOOKS


@pytest.fixture
def runner(tmp_path):
    return SimpleNamespace(
        work_dir=str(tmp_path / 'run'),
        logger=MMLogger.get_current_instance(),
        test_evaluator=Evaluator([Diversity(), Calibration(bins=4)]),
    )


def test_table_and_diagrams_are_written(runner, tmp_path):
    sample = DataSample().set_pred_score(torch.tensor([0.3, 0.7])).set_pred_label(1)
    runner.test_evaluator.process([sample.set_gt_label(0)])
    runner.test_evaluator.evaluate(1)
    HOOKS.build(dict(type='ReliabilityHook', out_dir='sure')).after_test_epoch(runner)
    table = pd.read_csv(tmp_path / 'run' / 'sure' / 'reliability.csv')
    pd.testing.assert_frame_equal(table, runner.test_evaluator.metrics[1].table, check_dtype=False)
    assert table['count'].tolist() == [0, 0, 1, 0]
    assert matplotlib.image.imread(tmp_path / 'run' / 'sure' / 'reliability.png').std() > 0


@pytest.mark.parametrize('metrics', [[Diversity()], [Calibration()]])
def test_no_files_without_the_metric_or_samples(runner, tmp_path, metrics):
    runner.test_evaluator = Evaluator(metrics)
    ReliabilityHook().after_test_epoch(runner)
    assert not (tmp_path / 'run').exists()
