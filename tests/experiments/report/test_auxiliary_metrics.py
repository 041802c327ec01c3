import statistics

import pandas as pd
import pytest

from mmkdml.experiments.report.auxiliary_metrics import (
    AUXILIARY_METRICS,
    auxiliary_panels,
    auxiliary_values,
)
from mmkdml.experiments.report.grid import Grid
from mmkdml.experiments.report.tables import build_table, render
from mmkdml.statistics.counts import find_variants
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord

NO_CASES = pd.DataFrame(columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'])


def run(name, seed, metrics, mode='baseline', style='', checkpoint='best', **parts):
    measured = {checkpoint: Measurement(metrics, NO_CASES)}
    return RunRecord(name, seed, mode, style, 'done', measured=measured, **parts)


def classroom(name, seed, mode, style, offset=0.0, **parts):
    metrics = {
        'teacher/calibration/ECE': 0.03,
        'ensemble/foreground/IoU': 50.0,
        'students/diversity/error_correlation': 0.51239 + offset,
    }
    for place, member in enumerate(('student_1', 'student_2', 'ensemble')):
        metrics[f'{member}/calibration/ECE'] = 0.04 + place / 100 + offset
        if mode != 'ml':
            metrics[f'{member}/fidelity/IoU'] = 80.0 + place + offset
            metrics[f'{member}/fidelity/KL'] = 0.01234 + offset
    return run(name, seed, metrics, mode, style, **parts)


def suite(*runs, tables=('Table 4', 'Table 12')):
    return SuiteRecord('lgg', 'LGG', ['IoU'], tables, runs)


def panels(*runs, checkpoint='best', **options):
    record = suite(*runs, **options)
    grid = Grid(record, find_variants(record), auxiliary_values(record, checkpoint), {})
    return {panel.title: panel for panel in auxiliary_panels(grid)}


def rows_of(panel):
    return {(row.block, row.label): row.cells for row in panel.rows}


def test_panels_have_the_layout_of_tables_11_and_12():
    found = panels(
        *(classroom('kdml_v3', seed, 'kdml', 'v3', seed / 10) for seed in range(3)),
        classroom('ml_v1', 0, 'ml', 'v1'),
    )
    keys = ['fidelity/IoU', 'fidelity/KL', 'diversity/error_correlation', 'calibration/ECE']
    assert list(found) == keys
    assert [panel.unit for panel in found.values()] == ['percent', 'nats', '', 'fraction']
    fidelity = rows_of(found['fidelity/IoU'])
    # Modes without a teacher have no fidelity.
    assert list(fidelity) == [('kdml', 'S1'), ('kdml', 'S2'), ('kdml', 'Ensemble')]
    empty, _, cell = fidelity['kdml', 'S2']
    assert (empty.run, empty.done, empty.ours) == ('', 0, '-')
    values = [81, 81.1, 81.2]
    assert (cell.mean, cell.std) == pytest.approx((81.1, statistics.stdev(values)))
    assert (cell.run, cell.member, cell.measure) == ('kdml_v3', 'student_2', 'fidelity/IoU')
    assert (cell.done, cell.expected) == (3, 3)
    paper = fidelity['kdml', 'Ensemble'][2].paper
    assert (paper.table, paper.text) == ('Table 12', '81.60 ± 0.077')
    assert all(cell.paper is None for row in found['fidelity/KL'].rows for cell in row.cells)
    assert list(rows_of(found['diversity/error_correlation'])) == [
        ('ml', 'Students'),
        ('kdml', 'Students'),
    ]
    assert list(rows_of(found['calibration/ECE'])) == [
        *(('ml', label) for label in ('S1', 'S2', 'Ensemble')),
        *(('kdml', label) for label in ('T', 'S1', 'S2', 'Ensemble')),
    ]


def test_number_of_decimals_depends_on_the_metric():
    found = panels(classroom('kdml_v3', 0, 'kdml', 'v3'))
    last = {title: panel.rows[0].cells[2].ours for title, panel in found.items()}
    assert last == {
        'fidelity/IoU': '80.00 (1)',
        'fidelity/KL': '0.0123 (1)',
        'diversity/error_correlation': '0.512 (1)',
        'calibration/ECE': '0.0300 (1)',
    }


def test_runs_without_mode_and_style_are_rows():
    found = panels(
        run('r18', 0, {'model/calibration/ECE': 0.07}),
        run('hot/fitnet', 0, {'ensemble/fidelity/IoU': 70.0}, 'comparison'),
        classroom('hot/kdml_v3', 0, 'kdml', 'v3'),
    )
    panel = found['Auxiliary metrics']
    assert panel.columns == ('fidelity/IoU (percent)', 'calibration/ECE (fraction)')
    assert {row: [cell.ours for cell in cells] for row, cells in rows_of(panel).items()} == {
        ('', 'r18'): ['-', '0.0700 (1)'],
        ('hot', 'fitnet'): ['70.00 (1)', '-'],
    }
    assert 'hot: fidelity/IoU' in found


def test_compared_method_with_two_students_has_diversity():
    runs = [run('kd_x2', 0, {'students/diversity/disagreement': 2.0}, 'comparison')]
    (row,) = panels(*runs)['Auxiliary metrics'].rows
    assert [cell.ours for cell in row.cells] == ['2.00 (1)']


def test_runs_without_auxiliary_metrics_have_no_panels():
    quality = run('kdml_v3', 0, {'ensemble/foreground/IoU': 50.0}, 'kdml', 'v3')
    assert panels(quality) == {}
    other = classroom('kdml_v3', 0, 'kdml', 'v3', checkpoint='last')
    assert panels(other) == {}
    assert panels(other, checkpoint='last')


def test_keys_are_those_of_the_evaluator_metrics():
    known = {'fidelity': {'accuracy', 'IoU', 'F1', 'agreement', 'AP50', 'box_agreement', 'KL'}}
    known['calibration'] = {'ECE', 'ECE_near_foreground', 'D-ECE'}
    known['diversity'] = {'disagreement', 'error_correlation'}
    assert {tuple(one.key.split('/')) for one in AUXILIARY_METRICS} == {
        (about, key) for about, keys in known.items() for key in keys
    }


@pytest.mark.parametrize('form', ['text', 'markdown', 'latex', 'csv'])
def test_suite_table_contains_auxiliary_metrics(form):
    runs = [classroom('kdml_v3', seed, 'kdml', 'v3') for seed in range(2)]
    text = render(build_table(suite(*runs), 'best'), form)
    if form == 'csv':
        assert 'fidelity/IoU,percent,80.0,0.0' in text
    else:
        assert 'fidelity/IoU (percent)' in text
        assert 'fidelity/KL (nats)' in text
        assert "Fidelity: the teacher's predictions as ground truth" in text
        assert 'Table 12' in text
