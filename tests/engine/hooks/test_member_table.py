import logging
import re

import pytest
import torch

# isort: split
from mmengine.hooks import CheckpointHook
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample

from mmkdml.engine import MemberTableHook, member_table
from mmkdml.evaluation import ForegroundIoU, MemberMetrics


def cells(table):
    return [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in table.splitlines()
        if line.startswith('|')
    ]


def test_rows_are_members_and_columns_are_metrics():
    table = member_table(
        {
            'teacher/foreground/IoU': 71.234,
            'teacher/foreground/F1': 83.2,
            'student_1/foreground/IoU': 68.009,
            'student_1/foreground/F1': float('nan'),
            'ensemble/foreground/IoU': 100,
            'ensemble/foreground/F1': 9.999,
        }
    )
    assert cells(table) == [
        ['member', 'IoU (%)', 'F1 (%)'],
        ['teacher', '71.23', '83.20'],
        ['student_1', '68.01', 'nan'],
        ['ensemble', '100.00', '10.00'],
    ]


def test_average_precision_is_a_fraction():
    keys = ('coco/bbox_mAP', 'coco/bbox_mAP_50')
    table = member_table({f'{name}/{key}': 1.0 for name in ('teacher', 'ensemble') for key in keys})
    assert cells(table) == [
        ['member', 'bbox_mAP (fraction)', 'bbox_mAP_50 (fraction)'],
        ['teacher', '1.0000', '1.0000'],
        ['ensemble', '1.0000', '1.0000'],
    ]


def test_ambiguous_columns_are_grouped():
    table = member_table(
        {'ensemble/image/IoU': 1.0, 'ensemble/case/IoU': 2.0, 'ensemble/mIoU': 3.0}
    )
    assert cells(table)[:2] == [
        ['', 'image', 'case', ''],
        ['member', 'IoU (%)', 'IoU (%)', 'mIoU (%)'],
    ]


def test_auxiliary_metrics_have_a_group_heading():
    keys = ('accuracy/top1', 'fidelity/accuracy', 'fidelity/KL', 'calibration/ECE')
    table = member_table(
        {f'{name}/{key}': 1.0 for name in ('student_1', 'ensemble') for key in keys}
        | {'students/diversity/disagreement': 1.0}
    )
    assert cells(table)[:2] == [
        ['', 'accuracy', 'fidelity', '', 'calibration'],
        ['member', 'top1 (%)', 'accuracy (%)', 'KL (nats)', 'ECE (fraction)'],
    ]
    assert [row[0] for row in cells(table)[2:]] == ['student_1', 'ensemble']


def test_decimals_depend_on_the_unit():
    table = member_table(
        {
            'a/fidelity/KL': 1.00401, 'b/fidelity/KL': 0.1, 'ensemble/fidelity/KL': float('nan'),
            'a/calibration/ECE': 0.04321, 'b/calibration/ECE': 0.1,
            'a/foreground/IoU': 0.123, 'b/foreground/IoU': 0.0,
            'a/my/size': 0.5, 'b/my/size': 1.0, 'a/my/share': 0.5, 'b/my/share': 0.25,
        }
    )  # fmt: skip
    assert cells(table)[2:] == [
        ['a', '1.0040', '0.0432', '0.12', '0.50', '0.5000'],
        ['b', '0.1000', '0.1000', '0.00', '1.00', '0.2500'],
        ['ensemble', 'nan', '-', '-', '-', '-'],
    ]


def test_values_of_single_classes_are_left_out():
    table = member_table({'model/accuracy/top1': 50.0, 'model/per_class/precision_nevus': 40.0})
    assert cells(table)[0] == ['member', 'top1 (%)']


def test_other_metrics_are_left_out():
    table = member_table(
        {
            'student_1/accuracy/top1': 50.0,
            'student_2/accuracy/top1': torch.tensor(5.0).item(),
            'student_1/single-label/precision_classwise': [1.0, 2.0],
            'student_2/single-label/f1': 4.0,
            'accuracy/top1': 60.0,
            'mIoU': 1.0,
            'val_loss': 2.0,
        }
    )
    assert cells(table) == [
        ['member', 'top1 (%)', 'f1'],
        ['student_1', '50.00', '-'],
        ['student_2', '5.00', '4.00'],
    ]


def test_plain_model_has_a_row():
    assert cells(member_table({'model/accuracy/top1': 12.345}))[1] == ['model', '12.35']


@pytest.mark.parametrize('metrics', [{}, {'mIoU': 1.0}, {'accuracy/top1': 1.0}])
def test_table_without_rows_is_empty(metrics):
    assert member_table(metrics) == ''


class Pupils(BaseModel):
    """Segmentor whose ensemble finds half of the tumor in the first validation, later all of it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.found = 0

    def forward(self, inputs, data_samples=None, mode='tensor'):
        if mode == 'loss':
            self.found += 2
            return dict(loss=self.weight.sum())
        truth = torch.ones(1, 1, 4, dtype=torch.long)
        half, mask = torch.zeros_like(truth), torch.zeros_like(truth)
        half[..., :1], mask[..., : self.found] = 1, 1
        return [
            SegDataSample(
                gt_sem_seg=PixelData(data=truth),
                pred_sem_seg=PixelData(data=mask),
                members=BaseDataElement(student_1=SegDataSample(pred_sem_seg=PixelData(data=half))),
            )
            for _ in inputs
        ]


class Slices(torch.utils.data.Dataset):
    metainfo = dict(classes=('background', 'tumour'))

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return dict(inputs=torch.zeros(1))


def test_runner_logs_the_table_and_saves_the_best_ensemble(tmp_path):
    loader = dict(
        dataset=Slices(),
        batch_size=1,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
    )
    evaluator = dict(type=MemberMetrics, metric=dict(type=ForegroundIoU))
    runner = Runner(
        model=Pupils(),
        work_dir=str(tmp_path),
        experiment_name='member_table',
        log_level='INFO',
        train_dataloader=loader,
        val_dataloader=loader,
        test_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=3),
        val_cfg=dict(),
        test_cfg=dict(),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        default_hooks=dict(
            checkpoint=dict(
                type=CheckpointHook,
                interval=-1,
                save_last=False,
                rule='greater',
                save_best='ensemble/foreground/IoU',
            )
        ),
        custom_hooks=[dict(type='mmkdml.MemberTableHook')],
    )
    messages, handler = [], logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    runner.logger.addHandler(handler)
    runner.train()
    runner.test()

    best = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('best*.pth')]
    assert len(best) == 1
    assert re.search('ensemble.foreground.IoU_epoch_2', best[0])
    tables = [message for message in messages if '| ensemble' in message]
    assert [table.partition('\n')[0] for table in tables] == [
        *(f'Members, validation after iteration {i}' for i in (1, 2, 3)),
        'Members, test',
    ]
    assert cells(tables[0])[1:] == [['student_1', '25.00', '40.00'], ['ensemble', '50.00', '66.67']]
    assert cells(tables[-1])[2] == ['ensemble', '100.00', '100.00']


def test_only_the_main_process_logs(monkeypatch):
    logged = []

    class FakeRunner:
        iter = 7
        logger = logging.Logger('fake')

    FakeRunner.logger.info = logged.append
    monkeypatch.setattr('mmengine.dist.utils.get_rank', lambda group=None: 1)
    MemberTableHook().after_val_epoch(FakeRunner(), {'ensemble/IoU': 1.0})
    assert logged == []
    monkeypatch.undo()
    MemberTableHook().after_val_epoch(FakeRunner(), {'mIoU': 1.0})
    assert logged == []
    MemberTableHook().after_val_epoch(FakeRunner(), {'ensemble/IoU': 1.0})
    assert logged[0].startswith('Members, validation after iteration 7\n+')
