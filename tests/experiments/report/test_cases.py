import numpy as np
import pandas as pd
import pytest
from PIL import Image

from mmkdml.experiments.report.cases import build_thumbnails, find_hard_cases
from mmkdml.experiments.report.results import Evaluation
from mmkdml.statistics.counts import find_variants
from mmkdml.statistics.records import Measurement, RunRecord, SuiteRecord


def run(name, seed=0, style='v1', hits=(50, 80), **parts):
    """Run whose ensemble hits some of 100 pixels in the images x of patient a, and y of b."""
    rows = [
        ('ensemble', image, group, 1, one, 0, 100 - one)
        for image, group, one in zip('xyz', 'abc', (*hits, 100), strict=True)
    ]
    cases = pd.DataFrame(rows, columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'])
    measured = {'best': Measurement({}, cases)}
    return RunRecord(name, seed, 'kdml', style, 'done', measured=measured, **parts)


def suite(*runs, **parts):
    return SuiteRecord('s', 'S', ['IoU'], (), runs, **parts)


@pytest.fixture
def picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / 'a.png')
    return tmp_path / 'a.png'


def test_figures_of_one_seed_with_their_patients(picture):
    names = ['panels/01_x.png', 'panels/panels.png', 'calibration/reliability.png']
    runs = [
        run('a', 0),
        run('a', 1, pictures=dict.fromkeys(names, picture)),
        run('a', 2, pictures=dict.fromkeys(names, picture)),
    ]
    record = suite(
        *runs, pictures={'analysis/cka.png': picture, 'analysis/panels/worst.png': picture}
    )
    found, left_out = build_thumbnails(record, {'a': runs})
    assert [(one.run, one.kind, one.case, one.group) for one in found] == [
        ('several runs', 'CKA', '', ''),
        ('several runs', 'Hard cases: worst', '', ''),
        ('a', 'Predictions', 'x', 'a'),
        ('a', 'Reliability', '', ''),
    ]
    assert found[2].caption == 'Predictions: a, seed 1, x'
    assert left_out == 0


def test_overview_is_shown_without_single_cases(picture):
    runs = [run('a', pictures={'panels/panels.png': picture})]
    found, _ = build_thumbnails(suite(*runs), {'a': runs})
    assert [(one.kind, one.case) for one in found] == [('Predictions', '')]


def test_figures_fit_in_the_budget(picture):
    runs = [run('a', pictures={f'analysis/{name}.png': picture for name in 'xyz'})]
    sizes = [len(one.uri) for one in build_thumbnails(suite(*runs), {'a': runs})[0]]
    found, left_out = build_thumbnails(suite(*runs), {'a': runs}, budget=sizes[0] // 2 * 3)
    assert sum(len(one.uri) for one in found) <= sizes[0] // 2 * 3
    assert len(found) + left_out == 3
    assert len(found[0].uri) < sizes[0]


def test_every_run_has_figures_if_some_are_left_out(picture):
    names = [f'analysis/{name}.png' for name in 'xyz']
    runs = [run(name, pictures=dict.fromkeys(names, picture)) for name in 'abc']
    by_name = {one.name: [one] for one in runs}
    smallest = len(build_thumbnails(suite(*runs), by_name, budget=1)[0])
    assert smallest == 0
    uri = build_thumbnails(suite(runs[0]), {'a': runs[:1]}, budget=10**5)[0][0].uri
    found, left_out = build_thumbnails(suite(*runs), by_name, budget=4 * len(uri))
    assert {one.run for one in found} == set('abc')
    assert [one.run for one in found] == sorted(one.run for one in found)
    assert left_out == 9 - len(found)


def hard_cases(*runs, **options):
    record = suite(*runs)
    evaluation = Evaluation.of(record, 'best', find_variants(record), resamples=5)
    return find_hard_cases(evaluation, **options)


def test_hard_cases_are_means_over_seeds_and_runs():
    found = hard_cases(
        run('a', 0), run('a', 1, hits=(70, 40)), run('b', 0, 'v2', hits=(0, 90)), limit=2
    )
    assert found.runs == ['a', 'b']
    assert found.rows == [('a', 30.0, [60.0, 0.0]), ('b', 75.0, [60.0, 90.0])]
    assert found.total == 3


def test_suite_without_results_has_no_hard_cases():
    assert hard_cases(RunRecord('a', 0, 'kdml', 'v1', 'waiting')) is None


def test_hard_cases_of_detectors_have_true_boxes():
    columns = ['member', 'id', 'group', 'label', 'rank', 'score', 'hits', 'ignored', 'boxes']
    rows = [
        ('ensemble', 'x', 'a', 0, 0, 0.0, 0, 0, 2),
        ('ensemble', 'x', 'a', 0, 1, 0.9, 1023, 0, 0),
        ('ensemble', 'y', 'b', 0, 0, 0.0, 0, 0, 1),
        ('ensemble', 'z', 'c', 0, 0, 0.0, 0, 0, 0),
        ('ensemble', 'z', 'c', 0, 1, 0.8, 0, 0, 0),
    ]
    cases = pd.DataFrame(rows, columns=columns)
    measured = {'best': Measurement({}, cases)}
    record = SuiteRecord(
        's', 'S', ['AP50'], (), [RunRecord('a', 0, 'kdml', 'v1', 'done', measured=measured)]
    )
    evaluation = Evaluation.of(record, 'best', find_variants(record), resamples=5)
    found = find_hard_cases(evaluation)
    assert [(group, pytest.approx(mean)) for group, mean, _ in found.rows] == [
        ('b', 0), ('a', 100 * 51 / 101)
    ]  # fmt: skip
    # Without a true box there is no precision, so the false alarm is not ranked.
    assert found.total == 2
