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
from mmkdml.statistics.records import Measurement, RunRecord, SuiteClaim, SuiteRecord

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


def varied(right, *names):
    """The numbers with a variation of one image, which depends on the names only."""
    rng = np.random.default_rng(list(''.join(map(str, names)).encode()))
    return {member: int(many + rng.integers(-1, 2)) for member, many in right.items()}


def runs(mode, style, right, prefix='', states=('done', 'done'), vary=True):
    def of_seed(seed):
        return varied(right, prefix, mode, style, seed) if vary else right

    return [
        RunRecord(
            f'{prefix}{mode}_{style}',
            seed,
            mode,
            style,
            state,
            measured={'best': Measurement({}, cases(of_seed(seed), seed))}
            if state == 'done'
            else {},
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
    return evaluate_claims(record, 'accuracy', 'best', **options)


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
    assert difference.value == pytest.approx(100 * 10 / IMAGES, abs=200 / IMAGES)
    # Three of the twelve ensembles have the predictions of another one.
    assert (difference.seeds, difference.runs) == (SEEDS, 9)
    assert by_text['v3: kdml is better than ml'].contrast.competitors == (('ml_v3', 'ensemble'),)
    better = by_text['kd_on v3: the ensemble is better than its better student']
    assert better.estimate.value == pytest.approx(100 * (50 - 38) / IMAGES, abs=200 / IMAGES)


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
            assert result.simultaneous == result.estimate.interval(1 - 0.05 / number)
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
    expected = [100 * more / IMAGES for more in (25, 24, -10, 25, -11, 24)]
    assert values == pytest.approx(expected, abs=200 / IMAGES)
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
    # Nor is the other claim of the family tested, with two seeds of two runs.
    other = by_text['kdml: v3 is better than v1']
    assert other.verdict == 'undecided (2 seeds of 2 runs)'
    assert math.isnan(other.p_holm)
    assert other.simultaneous == (other.estimate.low, other.estimate.high)


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
        right_of = dict(student_1=30, student_2=30, ensemble=right)
        found = runs('ml', style, right_of, vary=False)[:seeds]
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
    assert '3 not tested' in render_claims(results, 'text')


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


def test_rng_seed_determines_the_resamples_and_no_verdict():
    record = suite(*full_grid()[:6])
    first, again, other = (evaluate(record, resamples=20, rng=rng)[0].estimate for rng in (0, 0, 1))
    assert (first.distribution == again.distribution).all()
    assert (first.distribution != other.distribution).any()
    assert (first.low, first.p) == (other.low, other.p)


def test_result_has_difference_and_intervals():
    record = suite(*full_grid()[6:])
    results = evaluate(record)
    first = next(result for result in results if result.text == 'kdml: v3 is better than v1')
    found = first.estimate
    assert found.value == pytest.approx(1000 / IMAGES, abs=200 / IMAGES)
    assert found.low < found.value < found.high
    assert first.simultaneous[0] <= found.low
    assert (found.seeds, found.groups, found.resampled) == (SEEDS, IMAGES, ('seeds', 'groups'))
    assert (first.family, first.measure, first.checkpoint) == ('style', 'accuracy', 'best')
    assert first.verdict == HOLDS
    assert len(results) == 19


def test_claims_of_the_suite_come_first_with_families_of_their_own():
    claims = (
        SuiteClaim(('kdml_v3', ''), (('ml_v1', ''),), 'accuracy'),
        SuiteClaim(('kdml_v3', ''), (('kdml_v1', ''),), primary=True),
        SuiteClaim(('kdml_v3', 'student_1'), (('ml_v1', ''), ('r18', '')), primary=True, text='T'),
        SuiteClaim(('kdml_v3', ''), (('ml_v1', ''),), 'F1'),
    )
    single = [
        dataclasses.replace(run, name='r18', mode='baseline', style='')
        for run in runs('', '', dict(model=30))
    ]
    results = evaluate(dataclasses.replace(suite(*full_grid(), single), claims=claims))
    first, second, third = results[:3]
    assert [one.family for one in results[:4]] == ['primary', 'primary', 'secondary', 'style']
    assert [one.text for one in results[:3]] == [
        'kdml_v3 is better than kdml_v1', 'T', 'kdml_v3 is better than ml_v1'
    ]  # fmt: skip
    assert second.contrast.entry == ('kdml_v3', 'student_1')
    assert second.contrast.competitors == (('ml_v1', 'ensemble'), ('r18', 'model'))
    p_values = [first.estimate.p, second.estimate.p]
    assert [first.p_holm, second.p_holm] == pytest.approx(holm(p_values))
    assert third.p_holm == third.estimate.p
    assert (first.verdict, third.verdict) == (HOLDS, HOLDS)


@pytest.mark.parametrize('form', ['text', 'markdown'])
def test_render_claims(results, form):
    head, _, *table = render_claims(results, form).splitlines()
    holding = sum(result.verdict == HOLDS for result in results)
    opposite = sum(result.verdict == OPPOSITE for result in results)
    assert (holding, opposite) == (14, 9)
    assert head.startswith('14 of 38 claims hold. Contradicted (the opposite holds): 9; ')
    assert '; undecided: 15; ' in head
    rows = [line.strip('| ').split('|') for line in table if 'better' in line]
    first = [value.strip() for value in rows[0]]
    found = results[0].estimate
    assert first == [
        'ml: v3 is better than v1',
        'accuracy',
        f'{found.value:+.2f} [{found.low:+.2f}, {found.high:+.2f}]',
        f'{found.p:.4f}',
        f'{results[0].p_holm:.4f}',
        'holds',
        '2 seeds, 60 cases in 60 groups',
    ]
    assert len(rows) == 38


def test_differences_have_the_units_and_decimals_of_their_measures(results):
    known = dataclasses.replace(results[0].estimate, value=0.5, low=-0.0625, high=1.25)
    several = [
        dataclasses.replace(results[0], measure=one, estimate=known)
        for one in ('accuracy', 'HD95', 'Brier', 'false_positives')
    ]
    text = render_claims(several, 'text')
    assert '| difference [95 % interval] ' in text
    for expected in (
        '+0.50 points [-0.06, +1.25]',
        '+0.50 mm [-0.06, +1.25]',
        '+0.5000 fraction [-0.0625, +1.2500]',
        '| +0.50 [-0.06, +1.25]',
    ):
        assert expected in text
    assert '| difference in mm [95 % interval] ' in render_claims(several[1:2], 'text')
    assert '| difference [95 % interval] ' in render_claims(several[3:], 'text')
    assert '| difference in points [95 % interval] ' in render_claims(results, 'text')


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
    assert (teacher.estimate.value, teacher.outcome) == (0, UNDECIDED)
    assert 'The paper does not make them for detection' in render_claims([student], 'text')
    assert 'for detection' not in render_claims(
        evaluate(suite(runs('ml', 'v1', members()))), 'text'
    )
