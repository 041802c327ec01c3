from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from mmkdml.experiments.report.figures import (
    LINES,
    balance_keys,
    draw_balance,
    draw_curves,
    summarize_curves,
    validation_keys,
)
from mmkdml.figures import PALETTE
from mmkdml.statistics.records import RunRecord, SuiteRecord

IOU = ('ensemble/foreground/IoU', 'model/foreground/IoU')


def run(name, seed=0, mode='kdml', style='v1', state='done', **curves):
    """Run with curves by key, one value for each epoch from 1."""
    rows = [
        (epoch, key.replace('__', '/'), value)
        for key, values in curves.items()
        for epoch, value in enumerate(values, start=1)
    ]
    table = pd.DataFrame(rows, columns=['epoch', 'key', 'value'])
    return RunRecord(name, seed, mode, style, state, curves=table)


def scored(name, seed=0, values=(10, 20, 30), **kwargs):
    return run(name, seed, ensemble__foreground__IoU=values, **kwargs)


def suite(*runs, measures=('IoU',)):
    return SuiteRecord('mini', 'A small one', measures, (), runs)


class TestValidationKeys:
    def test_keys_are_limited_to_the_measures_of_the_suite(self):
        record = suite(
            run('a', loss=[1], lr=[1], ensemble__foreground__IoU=[1], ensemble__foreground__F1=[1]),
            run('b', mode='baseline', model__foreground__IoU=[1], student_1__foreground__IoU=[1]),
        )
        assert validation_keys(record) == [IOU]

    def test_keys_of_average_precision_are_those_of_mmdet(self):
        keys = ('bbox_mAP_s', 'bbox_mAP_50', 'bbox_mAP')
        record = suite(
            run('a', **{f'ensemble__coco__{key}': [1] for key in keys}), measures=('AP', 'AP50')
        )
        found = [ensemble for ensemble, _ in validation_keys(record)]
        assert found == ['ensemble/coco/bbox_mAP', 'ensemble/coco/bbox_mAP_50']

    def test_all_keys_if_no_measure_was_logged(self):
        record = suite(run('a', loss=[1], ensemble__case_IoU=[1], ensemble__mAcc=[1]))
        assert validation_keys(record) == [
            ('ensemble/case_IoU', 'model/case_IoU'),
            ('ensemble/mAcc', 'model/mAcc'),
        ]

    def test_no_keys_without_curves(self):
        assert validation_keys(suite(run('a', state='waiting'))) == []


class TestSummarizeCurves:
    def test_mean_and_range_over_the_seeds(self):
        runs = [scored('a', 0, (10, 20)), scored('a', 1, (12, 26)), scored('a', 2, (11, 29))]
        before = [one.curves.copy() for one in runs]
        expected = pd.DataFrame(
            {'mean': [11.0, 25.0], 'low': [10.0, 20.0], 'high': [12.0, 29.0]},
            index=pd.Index([1, 2], name='epoch'),
        )
        pd.testing.assert_frame_equal(summarize_curves(runs, IOU), expected)
        for one, table in zip(runs, before, strict=True):
            pd.testing.assert_frame_equal(one.curves, table)

    def test_values_of_one_epoch_are_averaged(self):
        once, often = run('a', 0, loss=[4]), run('a', 1, loss=[0, 0, 6], lr=[90])
        often = replace(often, curves=often.curves.assign(epoch=1))
        table = summarize_curves([once, often], ['loss'])
        assert table.loc[1].tolist() == [3, 2, 4]  # of 4 and (0 + 0 + 6) / 3

    @pytest.mark.parametrize('values', [(12, float('nan'), 14), (12,)])
    def test_diverged_or_shorter_seed_gives_nan(self, values):
        table = summarize_curves([scored('a', 0), scored('a', 1, values)], IOU)
        assert table.loc[1].tolist() == [11, 10, 12]
        assert table.loc[2].isna().all()

    def test_only_finished_runs_count(self):
        runs = [scored('a', 0), scored('a', 1, (90, 90, 90), state='running')]
        assert summarize_curves(runs, IOU)['mean'].tolist() == [10, 20, 30]
        assert summarize_curves(runs, ['loss']).empty
        assert summarize_curves([], IOU).empty


class TestDrawCurves:
    def axes_of(self, *runs, keys=IOU, same_scale=True):
        return draw_curves(suite(*runs), keys, 'IoU (%)', same_scale).axes

    def test_lines_and_bands_match_the_data(self):
        (axes,) = self.axes_of(scored('a', 0), scored('a', 1, (14, 20, 40)))
        (line,) = axes.lines
        np.testing.assert_array_equal(line.get_xydata(), [[1, 12], [2, 20], [3, 35]])
        corners = {tuple(corner) for corner in axes.collections[0].get_paths()[0].vertices}
        assert corners == {(1, 10), (1, 14), (2, 20), (3, 30), (3, 40)}
        assert (axes.get_xlabel(), axes.get_ylabel()) == ('epoch', 'IoU (%)')

    def test_each_mode_of_each_variant_has_a_panel(self):
        axes = self.axes_of(
            scored('r50', mode='baseline'),
            scored('hot/ml_v1', mode='ml'),
            scored('hot/ml_v2', mode='ml'),
            scored('cold/ml_v1', mode='ml'),
        )
        titles = [one.get_title() for one in axes if one.axison]
        assert titles == ['Single network', 'hot: Mutual learning', 'cold: Mutual learning']
        labels = [[line.get_label() for line in one.lines] for one in axes]
        assert labels[:3] == [['r50'], ['ml_v1', 'ml_v2'], ['ml_v1']]

    def test_style_keeps_its_color_if_another_is_missing(self):
        (axes,) = self.axes_of(
            scored('v1'), scored('v2', state='failed'), scored('v3'), scored('v3', seed=1)
        )
        assert [line.get_color() for line in axes.lines] == [PALETTE[0], PALETTE[2]]

    def test_legend_counts_missing_seeds(self):
        (axes,) = self.axes_of(scored('a'), scored('a', seed=1, state='failed'), scored('b'))
        labels = [text.get_text() for text in axes.get_legend().get_texts()]
        assert labels == ['a (1 of 2 seeds)', 'b']

    def test_24_lines_of_a_panel_are_distinct(self):
        (axes,) = self.axes_of(*(scored(f'run_{k}') for k in range(24)))
        assert len({(line.get_color(), line.get_linestyle()) for line in axes.lines}) == 24
        assert len(set(LINES)) == len(LINES)

    @pytest.mark.parametrize('same_scale', [True, False])
    def test_scale(self, same_scale):
        axes = self.axes_of(
            scored('a'), scored('b', mode='ml', values=(1, 90, 1)), same_scale=same_scale
        )
        assert (axes[0].get_ylim() == axes[1].get_ylim()) == same_scale

    def test_one_epoch_is_a_dot_and_missing_curve_a_note(self):
        dot, nothing = self.axes_of(scored('a', values=(5,)), run('b', mode='ml', loss=[1]))
        assert dot.lines[0].get_marker() == 'o'
        assert [text.get_text() for text in nothing.texts] == ['not logged']
        assert nothing.get_legend() is None


class TestBalance:
    ratio = {
        'gradient_ratio__student_1.from_teacher.features': [4.0, 2.0],
        'gradient_ratio__student_1.from_student_2.predictions': [0.5, 0.1],
    }

    def test_keys_are_gradient_ratios(self):
        runs = [run('a', loss=[1], **{'gradient__student_1.supervised': [1]}, **self.ratio)]
        assert balance_keys(runs) == [key.replace('__', '/') for key in self.ratio]
        assert balance_keys([run('b', loss=[1])]) == []

    def test_each_run_is_a_panel_and_each_transfer_a_line(self):
        doubled = {key: [3 * value for value in values] for key, values in self.ratio.items()}
        figure = draw_balance(
            {'a': [run('a', 0, **self.ratio), run('a', 1, **doubled)], 'b': [run('b', **doubled)]}
        )
        first, second = figure.axes
        assert (first.get_title(), second.get_title()) == ('a', 'b')
        lines = {line.get_label(): list(line.get_ydata()) for line in first.get_lines()[:2]}
        assert lines == {
            'student_1.from_teacher.features': pytest.approx([8, 4]),
            'student_1.from_student_2.predictions': pytest.approx([1, 0.2]),
        }
        assert first.get_yscale() == 'log'
