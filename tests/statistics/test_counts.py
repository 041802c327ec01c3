import numpy as np
import pandas as pd
import pytest

from mmkdml.statistics.counts import (
    MOST_REPLICATES,
    CaseCounts,
    count_cases,
    find_variants,
    seed_scores,
)
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord


def classified(pred, truth=(0, 1, 2, 0), member='model'):
    return pd.DataFrame(
        dict(member=member, id=list('abcd'), group=list('xxyy'), truth=truth, pred=pred)
    )


def run(name='r18', seed=0, cases=None, state='done', mode='baseline', style='', checkpoint='best'):
    measured = {} if cases is None else {checkpoint: Measurement({}, cases)}
    return RunRecord(name, seed, mode, style, state, measured=measured)


def suite(*runs):
    return SuiteRecord('mini', 'A suite', ('accuracy',), (), runs)


def test_scores_by_run_member_and_seed():
    both = pd.concat([classified([0, 1, 2, 1], member='teacher'), classified([0, 1, 1, 1])])
    counts = count_cases(
        suite(run(cases=classified([0, 1, 2, 0])), run(seed=1, cases=both)), 'best'
    )
    assert counts.task == 'classification'
    assert counts.scores('accuracy') == {
        ('r18', 'model'): {0: 100, 1: 50},
        ('r18', 'teacher'): {1: 75},
    }
    by_seed = counts.by_entry['r18', 'model']
    assert by_seed[0].cases == {*zip('abcd', 'xxyy', strict=True)}
    assert by_seed[0].cases is by_seed[1].cases  # fast to compare


def test_unfinished_and_untested_runs_are_skipped():
    cases = classified([0, 1, 2, 0])
    counts = count_cases(
        suite(
            run('failed', cases=cases, state='failed'),
            run('running', cases=cases, state='running'),
            run('untested'),
            run('last', cases=cases, checkpoint='last'),
            run('best', cases=cases),
        ),
        'best',
    )
    assert list(counts.by_entry) == [('best', 'model')]


def test_class_without_images_counts_if_it_is_predicted():
    """As in scikit-learn; class 2 occurs only in the predictions of the second run."""
    truth = (0, 1, 1, 0)
    runs = [
        run('a', cases=classified(truth, truth)),
        run('b', cases=classified([0, 1, 2, 0], truth)),
    ]
    scores = count_cases(suite(*runs), 'best').scores('precision')
    assert scores['a', 'model'][0] == 100
    assert scores['b', 'model'][0] == pytest.approx(200 / 3)


def test_seed_scores_of_all_seeds_and_checkpoints():
    runs = [
        run('v', 0, classified([0, 1, 2, 0]), mode='ml', style='v1'),
        run('v', 1, classified([1, 1, 2, 0]), mode='ml', style='v1', checkpoint='last'),
        run('v', 2, mode='ml', style='v1', state='failed'),
    ]
    assert seed_scores(suite(*runs)).to_numpy().tolist() == [
        ['v', 'ml', 'v1', 0, 'best', 'model', 'accuracy', 100],
        ['v', 'ml', 'v1', 1, 'last', 'model', 'accuracy', 75],
    ]
    assert list(seed_scores(suite())) == [
        'run', 'mode', 'style', 'seed', 'checkpoint', 'member', 'measure', 'value'
    ]  # fmt: skip


def test_suite_without_finished_runs_has_no_scores():
    counts = count_cases(suite(run()), 'last')
    assert counts.scores('IoU') == counts.scores('recall') == {}


def test_invalid_arguments_raise():
    segmented = pd.DataFrame(dict(member='m', id=['a'], group='x', label=1, tp=1, fp=0, fn=0))
    record = suite(run('a', cases=segmented), run('b', cases=classified([0, 0, 0, 0])))
    with pytest.raises(ValueError, match=r"\('best', 'last'\), got 'first'"):
        count_cases(record, 'first')
    with pytest.raises(ValueError, match=r"mini: .* got \['classification', 'segmentation'\]"):
        count_cases(record, 'best')
    with pytest.raises(ValueError, match='recall: .* segmentation, got .* classification'):
        count_cases(suite(run(cases=segmented)), 'best').scores('recall')
    with pytest.raises(ValueError, match="IoU, .*, got 'AUC'"):
        count_cases(suite(), 'best').scores('AUC')


def test_measures_of_several_labels():
    cases = pd.DataFrame(
        dict(member='model', id=list('aabb'), group='g', label=[0, 1] * 2, truth=[1, 0, 1, 1])
    ).assign(pred=[1, 1, 0, 1])
    counts = count_cases(suite(run(cases=cases)), 'best')
    assert counts.task == 'multi-label classification'
    assert counts.scores('recall') == {('r18', 'model'): {0: 75}}
    with pytest.raises(ValueError, match='measure of multi-label classification, got one of class'):
        counts.scores('accuracy')


def test_case_tables_are_not_modified():
    cases = classified([0, 1, 2, 1])
    count_cases(suite(run(cases=cases)), 'best')
    pd.testing.assert_frame_equal(cases, classified([0, 1, 2, 1]))


def test_variant_is_the_name_before_the_last_slash():
    names = ['kdml_v3', 'hot/kdml_v3', 'hot/x/ml', 'hot/ml_v1', 'kdml_v3', 'r50', 'fitnet', 'odd']
    modes = ['kdml', 'kdml', 'ml', 'ml', 'kdml', 'baseline', 'comparison', 'kdml']
    styles = ['v3', 'v3', 'v2', 'v1', 'v3', '', '', 'v9']
    runs = [
        run(n, i, mode=m, style=s)
        for i, (n, m, s) in enumerate(zip(names, modes, styles, strict=True))
    ]
    assert find_variants(suite(*runs)) == {
        '': {('kdml', 'v3'): 'kdml_v3'},
        'hot': {('kdml', 'v3'): 'hot/kdml_v3', ('ml', 'v1'): 'hot/ml_v1'},
        'hot/x': {('ml', 'v2'): 'hot/x/ml'},
    }


def test_two_runs_of_one_mode_and_style_raise():
    runs = [run(name, mode='ml', style='v1') for name in ('ml_v1', 'ml_v1_long')]
    with pytest.raises(ValueError, match="mini: .* ml v1 .* 'ml_v1' and 'ml_v1_long'.* 'a/ml_v1'"):
        find_variants(suite(*runs))


def test_predictions_are_recognized_by_their_classes():
    """Also of networks with scores, and of equal accuracy."""
    tables = [
        classified(pred).assign(score_0=first, score_1=0.25, score_2=0.75 - first)
        for pred, first in (([0, 1, 2, 1], 0.5), ([0, 1, 2, 1], 0.25), ([0, 1, 1, 0], 0.5))
    ]
    for cases in (tables, [one[one.columns[:5]] for one in tables]):
        counts = count_cases(
            suite(*(run(seed=i, cases=one) for i, one in enumerate(cases))), 'best'
        )
        first, again, other = (one.digest for one in counts.by_entry['r18', 'model'].values())
        assert first == again != other
        assert {*counts.scores('accuracy')['r18', 'model'].values()} == {75}


def test_leaving_out_groups_is_a_difference_of_sums_and_otherwise_one_of_weights():
    rng = np.random.default_rng(0)
    sums = rng.integers(0, 9, (5, 3, 2)).astype(float)
    cases = frozenset((f'i{group}', f'g{group}') for group in range(5))
    found = CaseCounts(cases, sums).leave_one_out()
    np.testing.assert_allclose(found[2], np.delete(sums, 2, 0).sum(0))

    class Weighted:  # any counts that are summed by weights, as detections
        def summed(self, times):
            return times

    many = frozenset((f'i{group}', f'g{group}') for group in range(1100))
    weights = CaseCounts(many, Weighted()).leave_one_out()
    assert weights.shape == (MOST_REPLICATES, 1100)
    assert ((weights == 0).sum(0) == 1).all()  # each group is left out once
    assert set((weights == 0).sum(1)) == {2, 3}
