from types import SimpleNamespace

import matplotlib.image
import pandas as pd
import pytest
import torch

# isort: split
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmpretrain.structures import DataSample

from mmkdml.evaluation import ConfusionMatrix, Diversity
from mmkdml.registry import HOOKS


@pytest.fixture
def runner(tmp_path):
    return SimpleNamespace(
        work_dir=str(tmp_path / 'run'),
        logger=MMLogger.get_current_instance(),
        test_evaluator=Evaluator([Diversity(), ConfusionMatrix()]),
    )


def test_table_and_figure_are_written(runner, tmp_path):
    runner.test_evaluator.dataset_meta = dict(classes=('nevus', 'melanoma'))
    sample = DataSample().set_pred_score(torch.tensor([0.3, 0.7])).set_pred_label(1)
    runner.test_evaluator.process([sample.set_gt_label(0)])
    runner.test_evaluator.evaluate(1)
    HOOKS.build(dict(type='ConfusionHook', out_dir='sure')).after_test_epoch(runner)
    table = pd.read_csv(tmp_path / 'run' / 'sure' / 'confusion.csv')
    assert table.query('count > 0').values.tolist() == [['model', 'nevus', 'melanoma', 1]]
    assert len(table) == 4
    assert matplotlib.image.imread(tmp_path / 'run' / 'sure' / 'confusion.png').std() > 0


@pytest.mark.parametrize('metrics', [[Diversity()], [ConfusionMatrix()]])
def test_no_files_without_the_metric_or_samples(runner, tmp_path, metrics):
    runner.test_evaluator = Evaluator(metrics)
    HOOKS.build(dict(type='ConfusionHook')).after_test_epoch(runner)
    assert not (tmp_path / 'run').exists()


def test_invalid_folder_raises():
    with pytest.raises(ValueError, match='out_dir: expected the path of a folder, got 3'):
        HOOKS.build(dict(type='ConfusionHook', out_dir=3))
