from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mmkdml.experiments.paper.claims import UNDECIDED
from mmkdml.experiments.report.answer import build_answer, count_verdicts
from mmkdml.experiments.report.results import Evaluation, build_results
from mmkdml.statistics.counts import find_variants
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord

MEMBERS = {'baseline': ['model'], 'ml': ['student_1', 'student_2', 'ensemble']}
KD = ['teacher', 'student_1', 'student_2', 'ensemble']


def run(name, seed, mode, style, hits, metrics=()):
    """Run in which each member hits ``hits`` of 100 pixels; the ensemble 10 more."""
    rows = [
        (member, f'{group}{image}', group, 1, found, 0, 100 - found)
        for member in MEMBERS.get(mode, KD)
        for found in (hits + 10 * (member == 'ensemble'),)
        for group in 'abc'
        for image in range(2)
    ]
    cases = pd.DataFrame(rows, columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'])
    cases['HD95'] = 100.0 - cases.tp
    return RunRecord(
        name, seed, mode, style, 'done', measured={'best': Measurement(dict(metrics), cases)}
    )


def evaluate(*runs, tables=(), measure='IoU'):
    record = SuiteRecord('s', 'S', [measure], tables, runs)
    evaluation = Evaluation.of(record, 'best', find_variants(record), resamples=20)
    return evaluation, list(build_results(evaluation))


@pytest.fixture(scope='module')
def study():
    fidelity = {'ensemble/fidelity/IoU': 90.0, 'student_1/fidelity/IoU': 80.0}
    return evaluate(
        *(run('r50', seed, 'baseline', '', 70) for seed in (0, 1)),
        *(run('ml_v1', seed, 'ml', 'v1', 30 + 10 * seed) for seed in (0, 1)),
        run('kdml_v1', 0, 'kdml', 'v1', 50, fidelity),
        RunRecord('kdml_v1', 1, 'kdml', 'v1', 'waiting'),
        tables=('Table 2', 'Table 4'),
    )


def test_runs_are_side_by_side(study):
    _, (iou, fidelity) = study
    assert [row.run.name for row in iou.rows] == ['r50', 'ml_v1', 'kdml_v1']
    assert [title for _, title, _ in iou.columns] == [
        'Ensemble or single network', 'Teacher', 'Student 1', 'Student 2'
    ]  # fmt: skip
    values = [[cell.mean for cell in row.cells.values()] for row in iou.rows]
    assert values == [[70], [45, 35, 35], [60, 50, 50, 50]]
    assert [(row.any_cell.done, row.any_cell.expected) for row in iou.rows] == [(2, 2)] * 2 + [
        (1, 2)
    ]
    assert {(row.images, row.groups) for row in iou.rows} == {(6, 3)}
    assert [iou.is_best(row, 'ensemble') for row in iou.rows] == [True, False, False]
    # No empty columns and rows.
    assert [row.run.name for row in fidelity.rows] == ['kdml_v1']
    assert [title for _, title, _ in fidelity.columns] == ['Ensemble', 'Student 1']
    assert not fidelity.differences
    assert fidelity.title == "IoU with the teacher's masks (%)"


def test_values_of_the_paper_are_beside_ours(study):
    _, (iou, fidelity) = study
    assert all(in_paper for _, _, in_paper in iou.columns)
    assert [row.cells['ensemble'].paper.table for row in iou.rows] == [
        'Table 2',
        'Table 4',
        'Table 4',
    ]
    assert not any(in_paper for _, _, in_paper in fidelity.columns)


def test_answer_names_the_best_ensemble(study):
    evaluation, (iou, _) = study
    found = build_answer(iou, evaluation.claims['IoU'])
    # A single network is not a variant.
    assert [row.run.name for row in found.ranked] == ['kdml_v1', 'ml_v1']
    assert (found.best.run.name, found.cell.mean) == ('kdml_v1', 60)
    assert found.overlapping == 1
    assert found.has_one_seed
    assert found.zeros == 0
    assert found.best.differences['teacher'].estimate.value == pytest.approx(10)
    assert 'teacher' not in found.ranked[1].differences
    assert found.all_of('teacher').startswith('All 1 variants: 1 ')


def test_lowest_distance_is_the_best():
    runs = (run('ml_v1', 0, 'ml', 'v1', 90), run('ml_v2', 0, 'ml', 'v2', 30))
    evaluation, (distance,) = evaluate(*runs, measure='HD95')
    found = build_answer(distance, evaluation.claims['HD95'])
    assert [(row.run.name, row.cells['ensemble'].mean) for row in found.ranked] == [
        ('ml_v1', 0), ('ml_v2', 60)
    ]  # fmt: skip
    assert [distance.is_best(row, 'ensemble') for row in found.ranked] == [True, False]
    assert found.zeros == found.overlapping == 0


def test_single_networks_are_compared_without_ensembles():
    evaluation, (iou,) = evaluate(
        run('r50', 0, 'baseline', '', 0), run('r18', 0, 'baseline', '', 0)
    )
    found = build_answer(iou, evaluation.claims['IoU'])
    assert [title for _, title, _ in iou.columns] == ['Ensemble or single network']
    assert found.cell.member == 'model'
    assert found.zeros == 2
    assert found.overlapping == 1
    assert found.verdicts == []
    assert not any(iou.is_best(row, 'ensemble') for row in iou.rows)


def test_best_distance_is_the_smallest_and_0_is_not_a_failure():
    distances = dict(ml=4.0, kd_on=9.0, kdml=0.0)
    runs = []
    for mode, distance in distances.items():
        one = run(f'{mode}_v1', 0, mode, 'v1', 50)
        measured = one.measured['best']
        spread = distance + np.arange(len(measured.cases)) % 3 * (distance > 0)
        measured = replace(measured, cases=measured.cases.assign(HD95=spread))
        runs.append(replace(one, measured={'best': measured}))
    record = SuiteRecord('s', 'S', ['HD95'], (), runs)
    evaluation = Evaluation.of(record, 'best', find_variants(record), resamples=0)
    (table,) = build_results(evaluation)
    found = build_answer(table, evaluation.claims['HD95'])
    assert [row.run.name for row in found.ranked] == ['kdml_v1', 'ml_v1', 'kd_on_v1']
    assert (found.cell.mean, found.zeros) == (0, 0)
    second = replace(found, ranked=found.ranked[1:])  # 4 to 6 mm, and 9 to 11 mm
    assert second.cell.high < second.ranked[1].cells['ensemble'].low
    assert second.overlapping == 0


def test_verdicts_are_counted_in_order(study):
    evaluation, _ = study
    claims = evaluation.claims['IoU']
    counts = count_verdicts(claims)
    assert sum(count for _, _, count in counts) == len(claims)
    assert [verdict for verdict, _, _ in counts] == sorted(
        {verdict for verdict, _, _ in counts},
        key=['holds', 'does not hold (opposite)', UNDECIDED, 'not computable'].index,
    )
