import dataclasses
import math

import numpy as np
import pandas as pd
import pytest

from mmkdml.experiments.paper.claims import (
    FAMILIES,
    HOLDS,
    OPPOSITE,
    UNDECIDED,
    evaluate_claims,
    render_claims,
)
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord

MODES, STYLES, SEEDS = ('ml', 'kd_off', 'kd_on', 'kdml'), ('v1', 'v2', 'v3'), (0, 1)
IMAGES = 60


def cases(right, seed):
    """Case tables with ``right`` correct images by member; the seed determines which."""
    order = np.random.default_rng(seed).permutation(IMAGES)
    ids = [f'i{index}' for index in range(IMAGES)]
    return pd.concat(
        pd.DataFrame(dict(member=name, id=ids, group=ids, truth=1, pred=(order < many).astype(int)))
        for name, many in right.items()
    )


def runs(mode, style, right, prefix='', states=('done', 'done')):
    return [
        RunRecord(
            f'{prefix}{mode}_{style}',
            seed,
            mode,
            style,
            state,
            measured={'best': Measurement({}, cases(right, seed))} if state == 'done' else {},
        )
        for seed, state in zip(SEEDS, states, strict=True)
    ]


def members(ensemble=40, teacher=40, students=(38, 36)):
    right = dict(student_1=students[0], student_2=students[1], ensemble=ensemble)
    return right if teacher is None else dict(right, teacher=teacher)


def suite(*parts):
    return SuiteRecord('s', 'S', ('accuracy',), (), [run for part in parts for run in part])


def full_grid():
    """All variants: v3 is best in each mode, kdml in no style, the ensemble below the teacher."""
    return [
        runs(mode, style, members(50 if style == 'v3' else 40, teacher=59))
        for mode in MODES
        for style in STYLES
    ]


def evaluate(record, **options):
    return evaluate_claims(record, 'accuracy', 'best', **dict(dict(resamples=999), **options))


@pytest.fixture(scope='module')
def results():
    return evaluate(suite(*full_grid()))


def test_claims_of_the_full_grid(results):
    texts = {family: [r.text for r in results if r.family == family] for family in FAMILIES}
    assert texts['style'] == [
        f'{mode}: v3 is better than {other}' for mode in MODES for other in ('v1', 'v2')
    ]
    assert texts['mode'] == [
        f'{style}: kdml is better than {other}' for style in STYLES for other in MODES[:3]
    ]
    assert texts['student'] == [
        f'{mode} {style}: the ensemble is better than its better student'
        for mode in MODES
        for style in STYLES
    ]
    assert (
        texts['teacher']
        == [  # ml has none
            f'{mode} {style}: the ensemble is better than the teacher'
            for mode in MODES[1:]
            for style in STYLES
        ]
    )
    verdicts = {family: {r.verdict for r in results if r.family == family} for family in FAMILIES}
    assert verdicts['style'] == {HOLDS}
    assert verdicts['mode'] == {UNDECIDED}
    assert verdicts['teacher'] == {OPPOSITE}
    by_text = {result.text: result for result in results}
    difference = by_text['kdml: v3 is better than v1'].estimate
    assert difference.value == pytest.approx(100 * 10 / IMAGES)
    assert difference.seeds == SEEDS
    assert by_text['v3: kdml is better than ml'].contrast.competitors == (('ml_v3', 'ensemble'),)
    better = by_text['kd_on v3: the ensemble is better than its better student']
    assert better.estimate.value == pytest.approx(100 * (50 - 38) / IMAGES)


def holm(p_values):
    """Holm's method: multiply the smallest of m p-values by m, the next by m - 1, monotonically."""
    corrected, floor = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        floor = max(floor, (len(p_values) - rank) * p_values[index])
        corrected[index] = min(1.0, floor)
    return corrected


def unlike_grid(prefix='', shift=0):
    return [
        runs(mode, style, members(40 + (3 * index + shift) % 7, 44, (43, 37)), prefix)
        for index, (mode, style) in enumerate((mode, style) for mode in MODES for style in STYLES)
    ]


def test_p_values_are_corrected_within_a_family_over_all_variants():
    results = evaluate(suite(*unlike_grid('hot/'), *unlike_grid('cold/', shift=2)))
    assert results[0].text == 'hot: ml: v3 is better than v1'
    assert 'cold: v2: kdml is better than kd_on' in {result.text for result in results}
    for family, number in dict(style=16, mode=18, student=24, teacher=18).items():
        of_family = [result for result in results if result.family == family]
        assert len(of_family) == number
        p_values = [result.estimate.p for result in of_family]
        assert len(set(p_values)) > 3
        assert [result.p_holm for result in of_family] == pytest.approx(holm(p_values))
        for result in of_family:
            ends = np.percentile(result.estimate.distribution, [2.5 / number, 100 - 2.5 / number])
            assert result.simultaneous == pytest.approx(tuple(ends))
            assert result.simultaneous[0] <= result.estimate.low


def test_methods_are_compared_with_kdml_v3_of_the_same_variant():
    def method(name, right):
        of_method = runs('', '', dict(ensemble=right, student=right, teacher=44))
        return [dataclasses.replace(run, name=name, mode='comparison') for run in of_method]

    ours = runs('kdml', 'v3', members(55, 44, (20, 55)), 'hot/')
    rivals = [*method('hot/fitnet', 30), *method('hot/at', 31), *method('cold/at', 59)]
    results = evaluate(suite(ours, rivals, runs('kdml', 'v1', members(), 'cold/')))
    found = {(r.family, r.text): r for r in results if r.family in ('method', 'single')}
    assert list(found) == [
        ('method', 'hot: the ensemble is better than fitnet'),
        ('method', 'hot: the ensemble is better than at'),
        ('single', 'hot: student_1 is better than fitnet'),
        ('single', 'hot: student_2 is better than fitnet'),
        ('single', 'hot: student_1 is better than at'),
        ('single', 'hot: student_2 is better than at'),
    ]
    values = [result.estimate.value for result in found.values()]
    assert values == pytest.approx([100 * more / IMAGES for more in (25, 24, -10, 25, -11, 24)])
    assert [result.verdict for result in found.values()] == [
        HOLDS if value > 0 else OPPOSITE for value in values
    ]


def test_variants_are_not_compared_with_each_other():
    results = evaluate(
        suite(runs('kdml', 'v3', members(), 'a/'), runs('kdml', 'v1', members(), 'b/'))
    )
    assert {result.family for result in results} == {'student', 'teacher'}


def test_claims_without_runs_are_omitted_and_without_results_not_computable():
    results = evaluate(
        suite(
            runs('kdml', 'v3', members(50)),
            runs('kdml', 'v1', members(40)),
            runs('kdml', 'v2', members(40), states=('failed', 'running')),
            [RunRecord('fitnet', 0, 'comparison', '', 'done')],
            [RunRecord('r50', 0, 'baseline', '', 'done')],
            [RunRecord('odd', 0, 'kdml', 'v7', 'done')],
        )
    )
    by_text = {result.text: result for result in results}
    assert [text for text in by_text if 'kdml:' in text] == [
        'kdml: v3 is better than v1',
        'kdml: v3 is better than v2',
    ]
    assert not any(result.family == 'mode' for result in results)
    missing = by_text['kdml: v3 is better than v2']
    assert missing.verdict == 'not computable: no finished run of kdml_v2 has a member ensemble'
    assert math.isnan(missing.p_holm)
    assert np.isnan(missing.simultaneous).all()
    # The correction excludes it, so one claim of the family is left.
    computable = by_text['kdml: v3 is better than v1']
    assert computable.p_holm == computable.estimate.p


def test_failed_seeds_are_ignored():
    record = suite(
        runs('ml', 'v3', members(teacher=None), states=('done', 'failed')),
        runs('ml', 'v1', members(teacher=None)),
    )
    found = evaluate(record)[0].estimate
    assert (found.seeds, found.resampled, found.undefined_reason) == ((0,), ('groups',), '')


def test_suite_without_claims_is_one_sentence():
    text = render_claims([], 'text')
    assert 'no claims' in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(('seeds', 'groups', 'reason'), [(1, IMAGES, '1 seed'), (2, 1, '1 group')])
def test_nothing_is_decided_with_a_single_seed_or_group(seeds, groups, reason):
    def clear(style, right):
        found = runs('ml', style, dict(student_1=30, student_2=30, ensemble=right))[:seeds]
        for run in found:
            table = run.measured['best'].cases
            table['group'] = table['group'] if groups > 1 else 'all'
        return found

    results = evaluate(suite(clear('v3', 59), clear('v1', 1)))
    first = results[0]
    assert first.estimate.low > 50  # would hold otherwise
    assert (first.verdict, first.outcome) == (f'undecided ({reason})', UNDECIDED)
    (row,) = [line for line in render_claims(results, 'text').splitlines() if first.text in line]
    assert f'| {reason}' in row or f'in {reason}' in row
    assert f'{IMAGES} cases' in row
    assert '0 of 3 claims hold.' in render_claims(results, 'text')
    assert 'because of a single seed or group' in render_claims(results, 'text')


def test_claims_of_an_unfinished_suite_are_not_computable():
    record = suite(*(runs(m, 'v1', members(), states=('waiting', 'failed')) for m in MODES))
    results = evaluate(record)
    assert len(results) == 3 + 4 + 3
    assert all(result.verdict.startswith('not computable: no finished run') for result in results)
    assert render_claims(results, 'text').startswith(
        '0 of 10 claims hold. Contradicted (the opposite holds): 0; undecided: 0; not computable: '
        '10.\n'
    )
    assert evaluate_claims(suite(), 'IoU', 'last') == []


def test_rng_seed_determines_the_resamples():
    record = suite(runs('ml', 'v3', members(41)))
    first, again, other = (
        [result.estimate.low for result in evaluate(record, rng=rng)] for rng in (0, 0, 1)
    )
    assert first == again != other


def test_result_has_difference_and_intervals():
    record = suite(runs('kdml', 'v3', members(50)), runs('kdml', 'v1', members(40)))
    results = evaluate(record)
    first, found = results[0], results[0].estimate
    assert first.text == 'kdml: v3 is better than v1'
    assert found.value == pytest.approx(1000 / IMAGES)
    assert found.low < found.value < found.high
    assert first.simultaneous[0] <= found.low
    assert (found.seeds, found.groups, found.resampled) == (SEEDS, IMAGES, ('seeds', 'groups'))
    assert (first.family, first.measure, first.checkpoint) == ('style', 'accuracy', 'best')
    assert first.verdict == HOLDS
    assert len(results) == 5


@pytest.mark.parametrize('form', ['text', 'markdown'])
def test_render_claims(results, form):
    head, _, *table = render_claims(results, form).splitlines()
    holding = sum(result.verdict == HOLDS for result in results)
    assert head.startswith(f'{holding} of 38 claims hold. Contradicted (the opposite holds): 9; ')
    assert '; undecided: 17; ' in head
    rows = [line.strip('| ').split('|') for line in table if 'better' in line]
    first = [value.strip() for value in rows[0]]
    found = results[0].estimate
    assert first == [
        'ml: v3 is better than v1',
        'accuracy',
        f'+16.67 [{found.low:+.2f}, {found.high:+.2f}]',
        '0.0020',
        '0.0160',
        'holds',
        '2 seeds, 60 cases in 60 groups',
    ]
    assert len(rows) == 38


def test_unknown_form_measure_or_checkpoint_raises():
    record = suite(runs('ml', 'v3', members()))
    with pytest.raises(ValueError, match="form: .* text, markdown, got 'latex'"):
        render_claims([], 'latex')
    with pytest.raises(ValueError, match='IoU: .* classification, got .* segmentation'):
        evaluate_claims(record, 'IoU', 'best')
    with pytest.raises(ValueError, match="checkpoint: .*got 'first'"):
        evaluate_claims(record, 'accuracy', 'first')
    twice = [*record.runs, RunRecord('again', 0, 'ml', 'v3', 'done')]
    with pytest.raises(ValueError, match="expected one run of ml v3 .* 'ml_v3' and 'again'"):
        evaluate(suite(twice))


def test_claims_about_detectors_are_not_those_of_the_paper():
    columns = ['member', 'id', 'group', 'label', 'rank', 'score', 'hits', 'ignored', 'boxes']
    rows = [
        (name, f'i{image}', f'i{image}', 0, *row)
        for name, found in dict(teacher=9, student_1=4, student_2=6, ensemble=9).items()
        for image in range(12)
        for row in ((0, 0.0, 0, 0, 1), (1, 0.5, 1023 * (image < found), 0, 0))
    ]
    measured = {'best': Measurement({}, pd.DataFrame(rows, columns=columns))}
    record = SuiteRecord(
        's', 'S', ('AP',), (), [RunRecord('kdml_v3', i, 'kdml', 'v3', 'done', measured=measured)
                                for i in SEEDS]
    )  # fmt: skip
    student, teacher = evaluate_claims(record, 'AP', 'best', resamples=99)
    assert student.estimate.value > 20
    assert (teacher.estimate.value, teacher.verdict) == (0, UNDECIDED)
    assert 'The paper does not make them for detection' in render_claims([student], 'text')
    assert 'for detection' not in render_claims(
        evaluate(suite(runs('ml', 'v1', members()))), 'text'
    )
