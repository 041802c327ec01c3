"""Base of data sets whose images can have several classes or none: split files, 224x224."""

from mmengine.config import read_base
from mmpretrain.evaluation import AveragePrecision, MultiLabelMetric

from mmkdml.datasets import SplitMultiLabelDataset
from mmkdml.evaluation import (
    Calibration,
    ConfusionMatrix,
    Diversity,
    Fidelity,
    MemberMetrics,
    MultiLabelAUROC,
)

with read_base():
    from .classification import *

train_dataloader['dataset'].update(type=SplitMultiLabelDataset)
val_dataloader['dataset'].update(type=SplitMultiLabelDataset)
test_dataloader['dataset'].update(type=SplitMultiLabelDataset)

val_evaluator = dict(
    type=MemberMetrics,
    metric=[
        dict(type=MultiLabelAUROC),
        dict(type=AveragePrecision),
        dict(type=MultiLabelMetric, thr=0.5),
    ],
)
test_evaluator = [
    val_evaluator,
    dict(type=Fidelity),
    dict(type=Diversity),
    dict(type=Calibration),
    dict(type=ConfusionMatrix),
]
default_hooks['checkpoint'].update(save_best='ensemble/multi-label/AUROC')
