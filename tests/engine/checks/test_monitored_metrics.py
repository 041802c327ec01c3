from types import SimpleNamespace

import pytest
import torch
from mmengine.hooks import CheckpointHook, EarlyStoppingHook
from mmengine.optim import ReduceOnPlateauLR, StepLR

from mmkdml.engine.checks import MonitoredMetricsHook

METRICS = {'ensemble/foreground/IoU': 0.5, 'teacher/foreground/IoU': 0.4}
GOOD, TYPO = 'ensemble/foreground/IoU', 'ensemble/foreground/IuO'

CLASSROOM = SimpleNamespace(named_members=lambda: dict.fromkeys(['teacher', 'student_1']))


def check(*hooks, schedulers=(), metrics=METRICS, model=CLASSROOM):
    runner = SimpleNamespace(hooks=hooks, param_schedulers=schedulers, model=model)
    hook = MonitoredMetricsHook()
    hook.after_val_epoch(runner, metrics)  # Nothing is monitored without training.
    hook.before_train(runner)
    hook.after_val_epoch(runner, metrics)


def plateau(key, rule='greater'):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.1)
    return [StepLR(optimizer, step_size=1), ReduceOnPlateauLR(optimizer, monitor=key, rule=rule)]


def checkpoint(save_best, rule='greater'):
    return CheckpointHook(save_best=save_best, rule=rule)


def test_existing_metrics_pass():
    check(checkpoint(GOOD), EarlyStoppingHook(GOOD, rule='greater'), schedulers=plateau(GOOD))
    check(checkpoint([*METRICS]), checkpoint('auto'), checkpoint(None))
    check(schedulers=dict(student=plateau(GOOD)))
    check(schedulers=None)


@pytest.mark.parametrize(
    ('hooks', 'schedulers', 'setting'),
    [
        ([checkpoint(TYPO)], (), 'save_best of the checkpoint hook'),
        ([checkpoint([GOOD, TYPO])], (), 'save_best of the checkpoint hook'),
        ([EarlyStoppingHook(TYPO, rule='greater')], (), 'monitor of EarlyStoppingHook'),
        ([], plateau(TYPO), 'monitor of ReduceOnPlateauLR'),
        ([], dict(student=plateau(TYPO)), 'monitor of ReduceOnPlateauLR'),
    ],
)
def test_misspelled_metric_raises(hooks, schedulers, setting):
    with pytest.raises(ValueError, match=f"{setting}: .*got '{TYPO}'.*{', '.join(METRICS)}"):
        check(*hooks, schedulers=schedulers)
    check(*hooks, schedulers=schedulers, metrics={})


ECE = 'ensemble/calibration/ECE'


@pytest.mark.parametrize(
    ('hook', 'setting', 'key', 'right'),
    [
        (checkpoint, 'save_best of the checkpoint hook', GOOD, 'greater'),
        (checkpoint, 'save_best of the checkpoint hook', ECE, 'less'),
        (checkpoint, 'save_best of the checkpoint hook', 'ensemble/clinical/HD95', 'less'),
        (checkpoint, 'save_best of the checkpoint hook', 'ensemble/per_class/HD95_tumor', 'less'),
        (EarlyStoppingHook, 'monitor of EarlyStoppingHook', 'student_1/accuracy/top1', 'greater'),
        (plateau, 'monitor of ReduceOnPlateauLR', 'model/f1-score', 'greater'),
        (plateau, 'monitor of ReduceOnPlateauLR', 'loss', 'less'),
    ],
)
def test_wrong_rule_for_a_known_metric_raises(hook, setting, key, right):
    model = SimpleNamespace() if key.startswith('model/') else CLASSROOM

    def train(rule):
        made = hook(key, rule=rule)
        lists = dict(hooks=[], param_schedulers=made) if hook is plateau else dict(
            hooks=[made], param_schedulers=[]
        )  # fmt: skip
        MonitoredMetricsHook().before_train(SimpleNamespace(**lists, model=model))

    train(right)
    wrong = dict(greater='less', less='greater')[right]
    with pytest.raises(ValueError, match=f"{setting}: expected rule='{right}' for {key}, got"):
        train(wrong)


def test_unknown_metrics_accept_both_rules():
    for rule in ('less', 'greater'):
        MonitoredMetricsHook().before_train(
            SimpleNamespace(
                hooks=[checkpoint('own/measure', rule)], param_schedulers=None, model=CLASSROOM
            )
        )


@pytest.mark.parametrize(
    ('key', 'model', 'expected'),
    [
        (GOOD, SimpleNamespace(), 'model'),
        ('students/diversity/disagreement', SimpleNamespace(), 'model'),
        ('student_2/foreground/IoU', CLASSROOM, 'teacher or student_1 or students or ensemble'),
        ('model/foreground/IoU', CLASSROOM, 'teacher or student_1 or students or ensemble'),
    ],
)
def test_metric_of_another_member_raises_before_training(key, model, expected):
    runner = SimpleNamespace(hooks=[checkpoint(key)], param_schedulers=None, model=model)
    with pytest.raises(ValueError, match=f"save_best .* metric of {expected}, got '{key}'"):
        MonitoredMetricsHook().before_train(runner)
    metric = SimpleNamespace(prefix=key.partition('/')[0])  # a metric with its own prefix
    runner.val_evaluator = SimpleNamespace(metrics=[metric])
    MonitoredMetricsHook().before_train(runner)


def test_average_precision_of_boxes_needs_the_rule_greater():
    key = 'ensemble/coco/bbox_mAP'
    check(checkpoint(key), metrics={key: 0.5})
    with pytest.raises(ValueError, match="expected rule='greater' for ensemble/coco/bbox_mAP"):
        check(checkpoint(key, rule='less'), metrics={key: 0.5})
