import io
import re

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import t

from mmkdml.experiments.report.tables import build_table, render
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord

FORMS = ('text', 'markdown', 'latex', 'csv')
STUDENTS = dict(student_1=60, student_2=70, ensemble=80)


def cases(tp):
    """Case tables of 4 images of 2 patients; ``tp`` has true positives of 100 pixels by member."""
    return pd.concat(
        pd.DataFrame(dict(member=name, id=list('abcd'), group=list('xxyy'), label=1)).assign(
            tp=[found, found + 1, found, found - 1], fp=0, fn=lambda rows: 100 - rows['tp']
        )
        for name, found in tp.items()
    )


def run(name, seed, tp, mode='baseline', style='', **parts):
    measured = {'best': Measurement({}, cases(tp))} if tp else {}
    return RunRecord(
        name, seed, mode, style, parts.pop('state', 'done'), measured=measured, **parts
    )


def suite(*runs, measures=('IoU', 'F1'), tables=('Table 4', 'Table 2')):
    return SuiteRecord('lgg_r18', 'ResNet18 & students', measures, tables, runs)


def small():
    """Suite with two baselines, two incomplete modes and a compared method."""
    teacher = dict(STUDENTS, teacher=85)
    return suite(
        *(run('r50', seed, dict(model=90 + seed)) for seed in range(3)),
        *(run('r34', seed, dict(model=50)) for seed in range(3)),
        *(run('kdml_v3', seed, {k: v + seed for k, v in teacher.items()}, 'kdml', 'v3')
          for seed in (0, 1)),
        run('kdml_v3', 2, {}, 'kdml', 'v3', state='failed', error='Trace\nRuntimeError: 1 < 2_b\n'),
        run('ml_v1', 0, STUDENTS, 'ml', 'v1'),
        run('ml_v1', 1, {}, 'ml', 'v1', state='waiting'),
        run('ml_v2', 0, {}, 'ml', 'v2', state='running'),
        run('fitnet', 0, dict(teacher=85, student_1=60, ensemble=60), 'comparison'),
    )  # fmt: skip


def rows_of(table, title):
    (panel,) = [panel for panel in table.panels if panel.title == title]
    return {(row.block, row.label): row.cells for row in panel.rows}


def test_layout_is_that_of_the_paper():
    table = build_table(small(), 'best')
    assert [panel.title for panel in table.panels] == [
        'Single networks',
        'IoU',
        'F1',
        'Compared methods',
    ]
    assert [panel.columns for panel in table.panels] == [
        ('IoU', 'F1'), ('v1', 'v2', 'v3'), ('v1', 'v2', 'v3'), ('IoU', 'F1')
    ]  # fmt: skip
    members = ['S1', 'S2', 'Ensemble']
    rows = [('ml', label) for label in members] + [('kdml', label) for label in ['T', *members]]
    assert list(rows_of(table, 'IoU')) == rows
    assert list(rows_of(table, 'Single networks')) == [('', 'r50'), ('', 'r34')]
    assert list(rows_of(table, 'Compared methods')) == [('', 'fitnet')]
    assert table.title == ('lgg_r18: ResNet18 & students (best on the validation set; test set)')


def test_modes_are_in_the_papers_order():
    runs = [
        run(f'{mode}_v1', 0, STUDENTS, mode, 'v1') for mode in ('kdml', 'kd_on', 'kd_off', 'ml')
    ]
    blocks = [block for block, _ in rows_of(build_table(suite(*runs), 'best'), 'IoU')]
    assert list(dict.fromkeys(blocks)) == ['ml', 'kd_off', 'kd_on', 'kdml']


def test_means_over_seeds_match_manual_computation():
    rows = rows_of(build_table(small(), 'best'), 'IoU')
    cell = rows['kdml', 'Ensemble'][2]
    assert (cell.run, cell.member, cell.measure) == ('kdml_v3', 'ensemble', 'IoU')
    # 80 and 81 of 100 pixels; the third seed failed and is not averaged away
    assert (cell.mean, cell.std) == pytest.approx((80.5, 0.5**0.5))
    assert (cell.done, cell.expected) == (2, 3)
    # Too few runs to pool: t with one degree of freedom over the seeds, on the logit scale
    width = t.ppf(0.975, 1) * 0.005 / (0.805 * 0.195)
    ends = 100 * expit(logit(0.805) + np.array([-1, 1]) * width)
    assert (cell.low, cell.high) == pytest.approx(tuple(ends))
    assert rows['kdml', 'T'][2].mean == 85.5
    one = rows['ml', 'S2'][0]
    assert (one.mean, one.done, one.expected) == (70, 1, 2)
    assert np.isnan(one.std)
    f1 = rows_of(build_table(small(), 'best'), 'F1')['ml', 'S2'][0]
    assert f1.mean == pytest.approx(100 * 2 * 70 / (70 + 100))
    nothing, no_run = rows['ml', 'Ensemble'][1:]
    assert (nothing.run, nothing.ours, nothing.expected) == ('ml_v2', '-', 1)
    assert (no_run.run, no_run.ours, no_run.expected) == ('', '-', 0)


def test_single_networks_and_other_runs_are_rows():
    table = build_table(small(), 'best')
    r50, _ = rows_of(table, 'Single networks')['', 'r50']
    assert (r50.member, r50.mean, r50.std, r50.done) == ('model', 91, pytest.approx(1), 3)
    fitnet, _ = rows_of(table, 'Compared methods')['', 'fitnet']
    assert (fitnet.member, fitnet.mean) == ('ensemble', 60)


def test_cells_contain_the_papers_values():
    table = build_table(small(), 'best')
    iou, f1 = rows_of(table, 'IoU'), rows_of(table, 'F1')
    assert iou['kdml', 'Ensemble'][2].theirs == '[80.12 ± 0.597]'
    assert f1['kdml', 'Ensemble'][2].theirs == '[89.52 ± 0.556*]'
    assert iou['ml', 'S1'][2].theirs == '[77.93 ± 0.537]'  # also without a run
    networks = rows_of(table, 'Single networks')
    assert networks['', 'r50'][0].theirs == '[76.86 ± 0.791]'
    assert networks['', 'r34'][0].paper is None
    assert rows_of(table, 'Compared methods')['', 'fitnet'][0].paper is None
    compared = build_table(suite(*small().runs[-1:], tables=['Table 10']), 'best')
    assert rows_of(compared, 'Compared methods')['', 'fitnet'][0].theirs == '[75.24 ± 0.261]'


def test_notes_list_missing_runs_and_doubtful_values():
    notes = build_table(small(), 'best').notes
    assert notes[0] == 'Mean ± sample standard deviation over seeds (number of seeds).'
    assert notes[1:4] == (
        'Missing: kdml_v3, seed 2 failed (RuntimeError: 1 < 2_b).',
        'Missing: ml_v1, seed 1 waiting.',
        'Missing: ml_v2, seed 0 running.',
    )
    assert notes[4] == 'In brackets: values of the paper, Table 4, Table 2; * doubtful.'
    assert (
        '* Table 4, ml Ensemble v3 F1: the first version of the paper has 87.32 ± 0.919, with the '
        'same IoU.'
    ) in notes
    assert notes[-1] == (
        'Table 4, Table 2: many standard deviations can only result from two runs, although three '
        'are stated.'
    )
    plain = build_table(suite(run('net', 0, dict(model=50)), tables=()), 'best').notes
    assert len(plain) == 1
    pooled = build_table(suite(run('net', 0, dict(model=50), folds=5), tables=()), 'best').notes
    assert pooled[1] == 'Pooled tests of 5 folds, in which every case is tested once.'


def test_run_without_the_checkpoint_is_missing():
    table = build_table(suite(run('r50', 4, dict(model=50))), 'last')
    assert 'after the last epoch' in table.title
    assert [cell.ours for cell in table.cells] == ['-', '-']
    assert table.notes[1] == 'Missing: r50, seed 4 was not tested with the last checkpoint.'


@pytest.mark.parametrize('form', FORMS)
def test_values_of_an_unfinished_suite_are_dashes(form):
    runs = [run(f'{m}_v1', 0, {}, m, 'v1', state='waiting') for m in ('ml', 'kdml')]
    table = build_table(suite(*runs, run('r50', 0, {}, state='failed')), 'best')
    assert len(table.cells) == 2 + 2 * 7 * 3
    assert {cell.ours for cell in table.cells} == {'-'}
    assert render(table, form)


@pytest.mark.parametrize('form', FORMS)
def test_empty_suite_renders(form):
    assert render(build_table(suite(), 'best'), form)


def test_each_variant_has_its_own_panels():
    runs = [
        run(f'{variant}/{name}', 0, tp, mode, style)
        for name, tp, mode, style in (
            ('r50', dict(model=50), 'baseline', ''),
            ('kdml_v1', STUDENTS, 'kdml', 'v1'),
            ('r18', dict(model=50), 'baseline', ''),
        )
        for variant in ('hot', 'cold')
    ]
    table = build_table(suite(*runs, measures=['IoU']), 'best')
    titles = [panel.title for panel in table.panels]
    assert titles == ['Single networks', 'hot: IoU', 'cold: IoU']
    networks = list(rows_of(table, 'Single networks'))
    assert networks == [('hot', 'r50'), ('hot', 'r18'), ('cold', 'r50'), ('cold', 'r18')]


def test_two_runs_for_one_cell_raise():
    runs = [run(name, 0, STUDENTS, 'ml', 'v1') for name in ('ml_v1', 'ml_v1_long')]
    with pytest.raises(ValueError, match="expected one run of ml v1 .* 'ml_v1' and 'ml_v1_long'"):
        build_table(suite(*runs), 'best')


def test_unknown_checkpoint_table_or_form_raises():
    with pytest.raises(ValueError, match="checkpoint: .*got 'newest'"):
        build_table(small(), 'newest')
    with pytest.raises(ValueError, match='tables: expected .*, got Table 1'):
        build_table(suite(*small().runs, tables=['Table 1']), 'best')
    with pytest.raises(ValueError, match="form: .* text, markdown, latex, csv, got 'html'"):
        render(build_table(suite(), 'best'), 'html')


def test_text_form():
    text = render(build_table(small(), 'best'), 'text')
    lines = [[value.strip() for value in line.split('|')[1:-1]] for line in text.splitlines()]
    place = lines.index(['', 'Ensemble', '-', '-', '80.50 ± 0.71 (2 of 3)'])
    theirs = ['', '', '[78.83 ± 0.275]', '[79.63 ± 0.700]', '[80.12 ± 0.597]']
    assert lines[place + 1] == theirs
    assert ['', 'r34', '50.00 ± 0.00 (3)', '66.67 ± 0.00 (3)'] in lines
    assert text.startswith('lgg_r18: ResNet18 & students (best on')
    assert text.endswith('although three are stated.\n')


def cells_of(line):
    return [value.strip() for value in re.split(r'(?<!\\)\|', line)[1:-1]]


def test_markdown_rows_are_complete_and_escaped():
    text = render(build_table(small(), 'best'), 'markdown')
    rows = [cells_of(line) for line in text.splitlines() if line.startswith('|')]
    assert {len(row) for row in rows} == {4, 5}
    ours = r'80.50 ± 0.71 (2 of 3) \[80.12 ± 0.597]'
    assert ['', 'Ensemble', r'- \[78.83 ± 0.275]', r'- \[79.63 ± 0.700]', ours] in rows
    assert text.startswith(r'### lgg\_r18: ResNet18 & students')
    assert r'- Missing: kdml\_v3, seed 2 failed (RuntimeError: 1 \< 2\_b).' in text
    assert not re.search(r'(?<![\\*])\*(?!\*)', text)  # a lone asterisk would begin emphasis


def test_bar_in_a_name_is_escaped_in_markdown():
    table = build_table(suite(run('a|b', 0, dict(model=50))), 'best')
    (row,) = [line for line in render(table, 'markdown').splitlines() if 'a\\|b' in line]
    assert len(cells_of(row)) == 4


def test_latex_is_balanced_and_escaped():
    text = render(build_table(small(), 'best'), 'latex')
    assert re.findall(r'\\begin{(\w+)}', text) == ['table', 'tabular'] * 4
    assert re.findall(r'\\end{(\w+)}', text) == ['tabular', 'table'] * 4
    assert all(text.count(rule) == 4 for rule in (r'\toprule', r'\midrule', r'\bottomrule'))
    bare = re.sub(r'\\[%#_{}$&]', '', text)
    assert bare.count('{') == bare.count('}')
    assert bare.count('$') == 2 * bare.count(r'\pm')
    assert not re.search('[±%#<>^~]', bare)
    assert '_' not in bare
    assert r'ResNet18 \& students' in text
    assert r'seed 2 failed (RuntimeError: 1 \textless{} 2\_b)' in text
    assert not re.search(r'\\\\\s*[*\[]', text)  # LaTeX would read these as arguments of \\
    tables = re.findall(r'\\begin{tabular}{(l+)}(.*?)\\end{tabular}', text, re.DOTALL)
    for columns, body in tables:
        for line in body.splitlines():
            if line.endswith(r'\\'):
                assert len(re.findall(r'(?<!\\)&', line)) == len(columns) - 1
    assert r'80.50 $\pm$ 0.71 (2 of 3) [80.12 $\pm$ 0.597]' in text


def test_csv_has_a_row_for_each_cell():
    table = build_table(small(), 'best')
    frame = pd.read_csv(io.StringIO(render(table, 'csv')))
    assert len(frame) == len(table.cells)
    wanted = frame.query('run == "kdml_v3" and member == "ensemble" and measure == "F1"')
    (row,) = wanted.to_dict('records')
    (cell,) = [
        c for c in table.cells if (c.run, c.member, c.measure) == ('kdml_v3', 'ensemble', 'F1')
    ]
    for key in ('mean', 'std', 'low', 'high', 'expected'):
        assert row[key] == pytest.approx(getattr(cell, key))
    assert (row['n'], row['paper_table'], row['paper_mean']) == (2, 'Table 4', 89.52)
    assert (row['paper_std'], row['doubt'][:10]) == (0.556, '0.56 above')
    assert (row['suite'], row['checkpoint'], row['panel']) == ('lgg_r18', 'best', 'F1')
    assert (row['block'], row['row'], row['column']) == ('kdml', 'Ensemble', 'v3')
    empty = frame[frame['run'].isna()]
    assert len(empty) == 3 * 2 + 4 * 2 * 2
    assert empty['mean'].isna().all()
    assert (empty['n'] == 0).all()


def test_table_is_reproducible_and_does_not_depend_on_resamples():
    first, other = (
        render(build_table(small(), 'best', resamples=9, rng=rng), 'csv') for rng in (0, 1)
    )
    assert first == other == render(build_table(small(), 'best'), 'csv')


def boxes(tp):
    """Tables of 20 images with a true box each; ``tp`` has the number of images where it is found.

    In the other images a false box has a higher score.
    """
    columns = ['member', 'id', 'group', 'label', 'rank', 'score', 'hits', 'ignored', 'boxes']
    rows = [
        (name, f'{image:02}', f'g{image // 2}', 0, *row)
        for name, found in tp.items()
        for image in range(20)
        for row in (
            (0, 0.0, 0, 0, 1),
            (1, 0.5 - image / 100, 1023, 0, 0) if image < found else (1, 0.9, 0, 0, 0),
        )
    ]
    return pd.DataFrame(rows, columns=columns)


def test_average_precision_of_detectors():
    runs = [
        RunRecord(name, seed, mode, style, 'done', measured={'best': Measurement({}, boxes(found))})
        for seed in (0, 1)
        for name, mode, style, found in (
            ('r18', 'baseline', '', dict(model=10)),
            ('kdml_v3', 'kdml', 'v3', dict(teacher=12, student_1=8, student_2=9, ensemble=16)),
        )
    ]
    table = build_table(suite(*runs, measures=('AP', 'AP50')), 'best', resamples=50)
    rows = rows_of(table, 'AP50')
    # The precision at recalls up to found / 20 is that after all false boxes.
    for label, found in (('T', 12), ('S1', 8), ('Ensemble', 16)):
        cell = rows['kdml', label][2]
        assert cell.mean == pytest.approx(100 * (5 * found + 1) / 101 * found / 20)
        assert cell.low < cell.mean < cell.high
    assert rows['kdml', 'S1'][2].mean == rows_of(table, 'AP')['kdml', 'S1'][2].mean
    (single, _) = rows_of(table, 'Single networks')['', 'r18']
    assert single.mean == pytest.approx(100 * 51 / 101 / 2)
    assert any('Detection is not a task of the paper' in note for note in table.notes)
    for form in FORMS:
        assert 'AP50' in render(table, form)
