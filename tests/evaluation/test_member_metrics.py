"""Run as a script, ``RANK FOLDER``, this file is one of two processes of an evaluation."""

import copy
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

import mmkdml.compat

# isort: split
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from mmpretrain.evaluation import Accuracy, SingleLabelMetric
from mmpretrain.structures import DataSample
from mmseg.evaluation import IoUMetric
from mmseg.structures import SegDataSample

from mmkdml.apis.cli.common import leave_process_group
from mmkdml.evaluation import ForegroundIoU, MemberMetrics, members_in_order
from mmkdml.registry import METRICS

MEMBERS = ('teacher', 'student_1', 'student_2')
NAMES = (*MEMBERS, 'ensemble')
SEG_META = dict(classes=('background', 'tumour', 'oedema'))


def classified(scores, label=None):
    sample = DataSample().set_pred_score(torch.tensor(scores))
    sample.set_pred_label(sample.pred_score.argmax().reshape(1))
    return sample if label is None else sample.set_gt_label(label)


def segmented(mask, truth=None):
    sample = SegDataSample(
        pred_sem_seg=PixelData(data=mask), seg_logits=PixelData(data=mask.float())
    )
    if truth is not None:
        sample.gt_sem_seg = PixelData(data=truth)
    return sample


def detected(boxes, truth=None):
    """Return four boxes of one class, from corners and sizes in [0, 1]."""

    def instances(boxes):
        corner, size = 9 * boxes[:, :2], 1 + 9 * boxes[:, 2:]
        return InstanceData(
            bboxes=torch.cat([corner, corner + size], 1),
            labels=torch.ones(len(boxes), dtype=torch.long),
            scores=boxes[:, 0],
        )

    sample = BaseDataElement(pred_instances=instances(boxes))
    if truth is not None:
        sample.set_metainfo(dict(img_id=truth[0], ori_shape=(20, 20)))
        sample.gt_instances, sample.ignored_instances = map(instances, (truth[1], truth[1][:0]))
    return sample


def make_samples(kind, count=5, members=MEMBERS, seed=0):
    """Return samples with members, and plain samples of each member by name."""
    rng = torch.Generator().manual_seed(seed)
    samples, separate = [], {name: [] for name in (*members, 'ensemble')}
    for img_id in range(count):
        if kind == 'cls':
            truth, make = int(torch.randint(3, (1,), generator=rng)), classified
            predictions = {n: torch.rand(3, generator=rng).tolist() for n in separate}
        elif kind == 'det':
            truth, make = (img_id, torch.rand(4, 4, generator=rng)), detected
            predictions = {n: truth[1] + torch.rand(4, 4, generator=rng) / 30 for n in separate}
        else:
            truth, make = torch.randint(3, (1, 6, 7), generator=rng), segmented
            predictions = {n: torch.randint(3, (1, 6, 7), generator=rng) for n in separate}
        sample = make(predictions['ensemble'], truth)
        sample.members = BaseDataElement(**{n: make(predictions[n]) for n in members})
        samples.append(sample)
        for name, prediction in predictions.items():
            separate[name].append(make(prediction, truth))
    return samples, separate


CASES = {
    'accuracy': ('cls', lambda: Accuracy(topk=(1, 2)), None),
    'single-label': ('cls', lambda: SingleLabelMetric(items=('precision', 'recall')), None),
    'IoUMetric': ('seg', lambda: IoUMetric(iou_metrics=['mIoU', 'mDice']), SEG_META),
    'foreground': ('seg', ForegroundIoU, SEG_META),
}


@pytest.mark.parametrize('case', CASES)
def test_equals_separate_evaluation_of_each_member(run, case):
    kind, build, meta = CASES[case]
    samples, separate = make_samples(kind)

    together = run(MemberMetrics(build()), samples, meta)

    expected = {
        f'{name}/{key}': value
        for name in NAMES
        for key, value in run(build(), separate[name], meta).items()
    }
    assert together == expected
    assert list(together) == list(expected)
    # The values of the members differ.
    first = next(iter(expected)).partition('/')[2]
    assert len({expected[f'{name}/{first}'] for name in NAMES}) > 1


def test_values_by_hand(run):
    right, wrong = [0.1, 0.9], [0.8, 0.2]
    samples = []
    for student_is_right in (True, False, False, False):
        sample = classified(right, 1)
        sample.members = BaseDataElement(
            student_1=classified(right if student_is_right else wrong), student_2=classified(wrong)
        )
        samples.append(sample)
    assert run(MemberMetrics(dict(type=Accuracy)), samples) == {
        'student_1/accuracy/top1': 25.0,
        'student_2/accuracy/top1': 0.0,
        'ensemble/accuracy/top1': 100.0,
    }


def test_built_from_the_registry_with_several_metrics(run):
    samples, separate = make_samples('cls')
    metric = METRICS.build(
        dict(
            type='mmkdml.MemberMetrics', metric=[dict(type=Accuracy), dict(type=SingleLabelMetric)]
        )
    )
    values = run(metric, samples)
    single = run([Accuracy(), SingleLabelMetric()], separate['student_2'])
    assert {k: v for k, v in values.items() if k.startswith('student_2/')} == {
        f'student_2/{k}': v for k, v in single.items()
    }


@pytest.mark.parametrize('kind', ['cls', 'seg'])
def test_samples_may_be_data_elements(run, kind):
    samples, _ = make_samples(kind)
    metric = Accuracy() if kind == 'cls' else ForegroundIoU()
    direct = MemberMetrics(metric)
    direct.dataset_meta = SEG_META
    direct.process(None, samples)
    assert direct.evaluate(len(samples)) == run(MemberMetrics(metric), samples, SEG_META)


def test_teachers_first_then_natural_order():
    names = ['student_10', 'teacher_2', 'student_2', 'ta', 'teacher', 'student_1']
    for shuffle in range(5):
        shuffled = np.random.default_rng(shuffle).permutation(names)
        ordered = members_in_order({str(name): None for name in shuffled})
        assert list(ordered) == [
            'teacher',
            'teacher_2',
            'student_1',
            'student_2',
            'student_10',
            'ta',
        ]


def test_plain_model_is_reported_as_model(run):
    _, separate = make_samples('cls')
    plain = run(MemberMetrics(Accuracy()), separate['teacher'])
    assert plain == {f'model/{k}': v for k, v in run(Accuracy(), separate['teacher']).items()}


def test_member_is_never_scored_by_the_ensembles_field(run):
    sample = classified([0.1, 0.9], 1)  # the ensemble is right
    sample.members = BaseDataElement(student_1=DataSample().set_pred_label(0))
    values = run(MemberMetrics(Accuracy()), [sample])
    assert values == {'student_1/accuracy/top1': 0.0, 'ensemble/accuracy/top1': 100.0}


def test_include_limits_the_names(run):
    samples, _ = make_samples('cls')
    everything = run(MemberMetrics(Accuracy()), samples)
    some = run(MemberMetrics(Accuracy(), include=('ensemble', 'teacher')), samples)
    assert some == {k: everything[k] for k in ('teacher/accuracy/top1', 'ensemble/accuracy/top1')}


def test_evaluate_resets_the_state(run):
    metric = MemberMetrics(Accuracy())
    run(metric, make_samples('cls', seed=1)[0])
    samples, _ = make_samples('cls', members=('student_1', 'student_2'), seed=2)
    assert run(metric, samples) == run(MemberMetrics(Accuracy()), samples)


def test_inputs_are_not_changed():
    samples, _ = make_samples('seg')
    samples = [sample.to_dict() for sample in samples]
    before = copy.deepcopy(samples)
    inner = IoUMetric()
    metric = MemberMetrics(inner)
    metric.dataset_meta = SEG_META
    metric.process(None, samples)
    metric.evaluate(len(samples))
    assert inner.results == []
    torch.testing.assert_close(samples, before, rtol=0, atol=0)


def test_log_output_begins_with_the_name(run):
    logger, messages = MMLogger.get_current_instance(), []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logger.addHandler(handler)
    try:
        run(MemberMetrics(IoUMetric()), make_samples('seg')[0], SEG_META)
        logger.warning('afterwards')
    finally:
        logger.removeHandler(handler)
    tables = [message for message in messages if 'tumour' in message]
    assert [table.split()[0] for table in tables] == [f'[{name}]' for name in NAMES]
    assert messages[-1] == 'afterwards'


def test_no_samples_give_no_values():
    assert MemberMetrics(Accuracy()).evaluate(0) == {}


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        (
            dict(metric='Accuracy'),
            TypeError,
            r"metric: expected a config \(dict\), a BaseMetric or a list.* got str: 'Ac",
        ),
        (dict(metric=[Accuracy]), TypeError, 'got ABCMeta'),
        (dict(metric=Accuracy(), include='ensemble'), TypeError, r"Write \('ensemble',\)"),
        (dict(metric=[]), ValueError, r'at least one of each, got metric=\[\]'),
        (dict(metric=Accuracy(), include=[]), ValueError, r'include=\[\]'),
    ],
)
def test_invalid_arguments_raise(arguments, error, message):
    with pytest.raises(error, match=message):
        MemberMetrics(**arguments)


def test_invalid_members_raise():
    samples, separate = make_samples('cls')
    with pytest.raises(ValueError, match=r"include: expected some of \['teach.*got \['pupil'\]"):
        MemberMetrics(Accuracy(), include=('pupil', 'ensemble')).process(None, samples)
    with pytest.raises(ValueError, match=r"same members .*'ensemble'\] and \['model'\]"):
        MemberMetrics(Accuracy()).process(None, [samples[0], separate['teacher'][0]])
    samples[0].members.ensemble = samples[0].members.teacher
    with pytest.raises(ValueError, match="Invalid member name 'ensemble'.*Rename it"):
        MemberMetrics(Accuracy()).process(None, samples[:1])


def test_compute_metrics_raises():
    with pytest.raises(NotImplementedError, match=r'call evaluate\(\)'):
        MemberMetrics(Accuracy()).compute_metrics([])


SHARDS = {  # indices of five samples, by rank
    'padded': ([0, 2, 4], [1, 3, 0]),  # the sampler repeats the first as the sixth
    'empty rank 0': ([], [0, 1, 2, 3, 4]),
    'empty rank 1': ([0, 1, 2, 3, 4], []),
}


def evaluate_shards(rank=None):
    """Evaluate the shards of a rank, or all samples in one process."""
    values = {}
    for name, ranks in SHARDS.items():
        for kind, metric in (
            ('cls', Accuracy()),
            ('seg', ForegroundIoU()),
            ('det', dict(type='mmkdml.BoxAP', metric_items=['mAP', 'mAP_s'])),
        ):
            samples, _ = make_samples(kind)
            evaluator = Evaluator(MemberMetrics(metric))
            evaluator.dataset_meta = SEG_META
            for index in range(5) if rank is None else ranks[rank]:
                evaluator.process([samples[index]], None)
            values[f'{name}, {kind}'] = evaluator.evaluate(5)
    return values


def error_of_unlike_ranks(rank):
    metric = MemberMetrics(Accuracy())
    metric.process(None, make_samples('cls', members=MEMBERS[rank:])[0])
    try:
        metric.evaluate(5)
    except ValueError as error:
        return str(error)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    # Different PYTHONHASHSEEDs give the fields of samples different orders.
    root = Path(mmkdml.__file__).parents[1]
    workers = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path)],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                'PYTHONHASHSEED': str(rank + 1),
                'PYTHONPATH': str(root),
                'OMP_NUM_THREADS': '1',
            },
        )
        for rank in range(2)
    ]
    for worker in workers:
        log, _ = worker.communicate(timeout=500)
        assert worker.returncode == 0, log
    expected = evaluate_shards()
    for rank in range(2):
        found = json.loads((tmp_path / f'{rank}.json').read_text())
        assert 'the same members in every process' in found.pop('error')
        assert found == expected
        assert [list(values) for values in found.values()] == [
            list(values) for values in expected.values()
        ]


if __name__ == '__main__':
    own_rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    dist.init_process_group(
        'gloo', init_method=f'file://{folder / "store"}', rank=own_rank, world_size=2
    )
    outcome = {**evaluate_shards(own_rank), 'error': error_of_unlike_ranks(own_rank)}
    (folder / f'{own_rank}.json').write_text(json.dumps(outcome))
    leave_process_group()
