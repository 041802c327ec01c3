import math

import numpy as np
import pandas as pd
import pytest
import torch
from mmengine.structures import BaseDataElement, PixelData
from mmseg.structures import SegDataSample

from mmkdml.evaluation import CaseTable, ClinicalSegmentation
from mmkdml.evaluation.clinical.segmentation import clinical_cases
from mmkdml.evaluation.clinical.volume_scores import Conventions, volume_scores
from mmkdml.statistics.counts import count_members
from mmkdml.statistics.measures import MEASURES, measures_of

MEMBERS = ('teacher', 'student_1', 'ensemble')
META = dict(classes=('background', 'anterior', 'posterior'))
SPACING = (2.0, 0.5, 1.5)
SHAPE = (5, 9, 8)


def volume(seed):
    """Return the true classes and those of each member."""
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 3, (5, 3, 2)), np.ones((1, 3, 4), int))
    noise = {name: rng.random(SHAPE) < 0.2 for name in MEMBERS}
    return truth, {
        name: np.where(own, rng.integers(0, 3, SHAPE), truth) for name, own in noise.items()
    }


VOLUMES = {f'case{seed}': volume(seed) for seed in range(3)}


def sample(truth, members, **metainfo):
    """Return a sample of one slice, (H, W) each."""
    data = {name: PixelData(data=torch.from_numpy(own)[None]) for name, own in members.items()}
    made = SegDataSample(
        metainfo=metainfo,
        gt_sem_seg=PixelData(data=torch.from_numpy(truth)[None]),
        pred_sem_seg=data.pop('ensemble'),
    )
    if data:
        made.members = BaseDataElement(
            **{name: SegDataSample(pred_sem_seg=own) for name, own in data.items()}
        )
    return made


def slices_of(name, truth, members, **changed):
    metainfo = dict(case=name, group=f'p{name}', slices=len(truth), spacing=SPACING)
    return [
        sample(
            own,
            {member: masks[index] for member, masks in members.items()},
            **{**metainfo, 'slice': index, 'id': f'{name}_{index}', **changed},
        )
        for index, own in enumerate(truth)
    ]


def all_slices():
    return [one for name, own in VOLUMES.items() for one in slices_of(name, *own)]


def evaluated(samples, metric=None, batch=4):
    metric = metric or ClinicalSegmentation()
    metric.dataset_meta = META
    for start in range(0, len(samples), batch):
        metric.process(None, samples[start : start + batch])
    return metric.evaluate(len(samples)), metric


def expected_means(tolerances=(1.0, 1.0), member='student_1'):
    conventions = Conventions(tolerances)
    cases = [
        volume_scores(own[member].astype(np.uint8), truth.astype(np.uint8), SPACING, conventions)
        for truth, own in VOLUMES.values()
    ]
    return [
        {key: np.nanmean([one[label][key] for one in cases]) for key in cases[0][0]}
        for label in range(2)
    ]


KEYS = {
    'Dice', 'IoU', 'HD95', 'ASD', 'NSD', 'volume_error', 'volume_difference', 'lesion_sensitivity',
    'false_positives',
}  # fmt: skip


@pytest.mark.parametrize('order', ['sorted', 'shuffled', 'repeated'])
def test_means_over_cases_then_classes_in_any_order(order):
    samples = all_slices()
    if order != 'sorted':
        samples = [samples[i] for i in np.random.default_rng(1).permutation(len(samples))]
    if order == 'repeated':  # padding of the sampler, also after the end of a case
        samples = samples + samples[:7]
    found, metric = evaluated(samples)
    for member in MEMBERS:
        anterior, posterior = expected_means(member=member)
        for key in KEYS:
            name = {'IoU': 'case_IoU'}.get(key, key)
            means = anterior[name], posterior[name]
            assert found[f'{member}/per_class/{key}_anterior'] == pytest.approx(means[0])
            assert found[f'{member}/per_class/{key}_posterior'] == pytest.approx(means[1])
            assert found[f'{member}/clinical/{key}'] == pytest.approx(np.mean(means))
    assert len(found) == len(MEMBERS) * len(KEYS) * 3
    assert len(metric.table) == len(MEMBERS) * 3 * 2
    assert list(metric.table.columns[:4]) == ['member', 'id', 'group', 'label']
    assert evaluated([], metric)[0] == {}  # nothing is left


def test_complete_cases_are_released():
    metric = ClinicalSegmentation()
    metric.dataset_meta = META
    samples = all_slices()
    for number, one in enumerate(samples, 1):
        metric.process(None, [one])
        assert len(metric._open) == bool(number % len(VOLUMES['case0'][0]))
    # Masks of open cases are compressed.
    metric.process(
        None,
        slices_of('big', np.zeros((2, 512, 512), int), {'ensemble': np.zeros((2, 512, 512), int)})[
            :1
        ],
    )
    held = sum(
        len(mask) for masks in metric._open['big']._masks.values() for mask in masks.values()
    )
    assert held < 512 * 512 / 50


@pytest.mark.parametrize('divided', ['slices', 'cases'])
def test_processes_gather_the_slices_of_a_case(monkeypatch, divided):
    """Two metrics exchange what they would gather as two processes."""
    samples = all_slices()
    parts = [samples[0::2] + samples[:1], samples[1::2]]
    if divided == 'cases':
        parts = [samples[:5], samples[5:] + samples[:1]]  # the last one is padding
    metrics = [ClinicalSegmentation() for _ in parts]
    for metric, own in zip(metrics, parts, strict=True):
        metric.dataset_meta = META
        metric.process(None, own)
    states = [(one._finished, one._open) for one in metrics]
    module = 'mmkdml.evaluation.clinical.segmentation'
    scored = []
    for rank, metric in enumerate(metrics):
        answers = iter([states])
        monkeypatch.setattr(f'{module}.get_dist_info', lambda rank=rank: (rank, 2))

        def gather(own, answers=answers):
            scored.append(own)
            return next(answers, [own])

        monkeypatch.setattr(f'{module}.all_gather_object', gather)
        metric.evaluate(len(samples))
    own = [one for one in scored if isinstance(one, dict)]
    if divided == 'cases':
        assert own == [{}, {}]
        return
    assert [sorted(one) for one in own] == [['case0', 'case2'], ['case1']]
    rows = [row for one in own for name in sorted(one) for row in one[name]]
    whole = evaluated(samples)[1].table
    keys = ['member', 'id', 'label']
    table = pd.DataFrame(rows).sort_values(keys, ignore_index=True)[whole.columns]
    pd.testing.assert_frame_equal(table, whole)


def test_images_without_spacing_are_cases_in_pixels():
    truth, members = VOLUMES['case1']
    images = [
        sample(truth[i], {k: v[i] for k, v in members.items()}, id=f'i{i}', group='g')
        for i in range(len(truth))
    ]
    found, metric = evaluated(images)
    assert {key.split('/')[2] for key in found if '/clinical/' in key} == (
        KEYS - {'HD95', 'ASD', 'NSD', 'volume_difference'} | {'HD95px', 'ASDpx', 'NSDpx'}
    )
    each = [
        volume_scores(
            members['teacher'][i].astype(np.uint8), truth[i].astype(np.uint8), (1, 1),
            Conventions((1.0, 1.0)),
        )
        for i in range(len(truth))
    ]  # fmt: skip
    expected = [np.nanmean([one[label]['HD95'] for one in each]) for label in range(2)]
    assert found['teacher/clinical/HD95px'] == pytest.approx(np.mean(expected))
    assert set(metric.table['id']) == {f'i{i}' for i in range(5)}


def test_images_with_spacing_have_distances_in_mm_but_no_volume():
    truth, members = VOLUMES['case1']
    own = {k: v[0] for k, v in members.items()}
    found, _ = evaluated([sample(truth[0], own, id='a', group='g', spacing=(0.5, 1.5))])
    assert 'ensemble/clinical/HD95' in found
    assert not [key for key in found if 'volume_difference' in key or 'px' in key]


def test_ignored_elements_are_excluded_from_both():
    truth, members = (VOLUMES['case0'][0].copy(), VOLUMES['case0'][1])
    ignored = np.random.default_rng(0).random(SHAPE) < 0.3
    found, _ = evaluated(slices_of('a', np.where(ignored, 255, truth), members))
    without = {name: np.where(ignored, 0, own) for name, own in members.items()}
    assert found == evaluated(slices_of('a', np.where(ignored, 0, truth), without))[0]


def test_a_class_that_never_occurs_is_excluded_from_means():
    truth = np.zeros(SHAPE, int)
    truth[1:3, 2:5, 2:5] = 1
    found, _ = evaluated(slices_of('a', truth, {'ensemble': truth}))
    assert found['model/clinical/Dice'] == 100
    assert found['model/per_class/Dice_anterior'] == 100
    assert math.isnan(found['model/per_class/Dice_posterior'])


def test_empty_masks_are_counted_in_a_warning(monkeypatch):
    messages = []
    monkeypatch.setattr(
        'mmkdml.evaluation.clinical.segmentation.print_log',
        lambda message, **_: messages.append(message),
    )
    truth = np.zeros(SHAPE, int)
    truth[1:3, 2:5, 2:5] = 1
    samples = slices_of('a', truth, {'ensemble': 0 * truth})
    found, _ = evaluated(samples)
    diagonal = math.hypot(5 * 2, 9 * 0.5, 8 * 1.5)
    assert found['model/clinical/HD95'] == pytest.approx(diagonal)
    assert found['model/clinical/Dice'] == 0
    assert len(messages) == 1
    assert messages[0].startswith('model: 1 of 2 masks')
    skipped, _ = evaluated(samples, ClinicalSegmentation(missing='skip', empty='perfect'))
    assert math.isnan(skipped['model/per_class/HD95_anterior'])
    assert skipped['model/per_class/HD95_posterior'] == 0


def test_tolerance_by_class():
    metric = ClinicalSegmentation(tolerance=dict(anterior=0.4, posterior=2.0))
    found, _ = evaluated(all_slices(), metric)
    for expected, name in zip(expected_means((0.4, 2.0)), META['classes'][1:], strict=True):
        assert found[f'student_1/per_class/NSD_{name}'] == pytest.approx(expected['NSD'])
    with pytest.raises(ValueError, match=r"tolerance: .* \['anterior', 'posterior'\], got .*'x'"):
        evaluated(all_slices(), ClinicalSegmentation(tolerance=dict(x=1.0)))


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        (dict(spacing=(1.0, 0.0, 1.0)), r'spacing of case a: expected 3 .*above 0.*0\.0'),
        (dict(spacing=(1.0, float('nan'), 1.0)), 'spacing of case a: .*nan'),
        (dict(spacing=(1.0, 1.0)), r'expected 3 finite numbers above 0 \(mm\), got \(1.0, 1.0\)'),
        (dict(slice=5), 'slice of case a: expected 0 to 4 of 5, got 5'),
    ],
)
def test_invalid_metainfo_raises(changed, message):
    with pytest.raises(ValueError, match=message):
        evaluated(slices_of('a', *VOLUMES['case0'], **changed))


def test_missing_slices_are_named():
    samples = all_slices()
    with pytest.raises(ValueError, match='case case1: .* all of its 5 slices, got 3; .* are 1, 4'):
        evaluated(samples[:6] + samples[7:9] + samples[10:])


def test_slices_of_different_cases_with_one_name_raise():
    samples = slices_of('a', *VOLUMES['case0'])[:2] + slices_of('a', *VOLUMES['case1'], slices=7)
    with pytest.raises(ValueError, match='slices of case a: expected the same slices .* 5 and 7'):
        evaluated(samples)


def test_spacing_of_some_cases_raises():
    samples = slices_of('a', *VOLUMES['case0'])
    samples += slices_of('b', *VOLUMES['case1'], spacing=None)
    with pytest.raises(ValueError, match='spacing: .* got 1 cases without it, such as b'):
        evaluated(samples)


def test_samples_without_a_name_or_slices_raise():
    truth, members = VOLUMES['case0']
    own = {name: masks[0] for name, masks in members.items()}
    with pytest.raises(ValueError, match='id or img_path, or case'):
        evaluated([sample(truth[0], own)])
    with pytest.raises(ValueError, match='case a: expected slice and slices'):
        evaluated([sample(truth[0], own, case='a')])


@pytest.mark.parametrize(
    'kwargs', [dict(tolerance=-1), dict(overlap=2), dict(empty='no'), dict(missing='no')]
)
def test_invalid_arguments_raise(kwargs):
    with pytest.raises(ValueError, match=next(iter(kwargs))):
        ClinicalSegmentation(**kwargs)


def test_values_join_the_case_table_and_its_statistics():
    samples, table = all_slices(), CaseTable()
    found, metric = evaluated(samples)
    evaluated(samples + samples[-1:], table)  # padded
    cases = clinical_cases(table.table, [table, metric])
    assert len(cases) == len(MEMBERS) * 3 * 2
    assert set(cases['id']) == set(VOLUMES)
    np.testing.assert_allclose(
        cases['Dice'], 200 * cases['tp'] / (2 * cases['tp'] + cases['fp'] + cases['fn'])
    )
    assert set(measures_of(cases)) == KEYS | {'F1', 'case_IoU'}
    for member, counts in count_members(cases, 2).items():
        for key in KEYS - {'IoU'}:
            value = MEASURES[key].value(counts.total())
            assert value == pytest.approx(found[f'{member}/clinical/{key}']), key
    assert clinical_cases(table.table, [table]) is table.table
