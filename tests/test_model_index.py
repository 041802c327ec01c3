"""model-index.yml and the metafiles of the configs, against the data that they are written from."""

import csv
import re
import runpy
import statistics
from pathlib import Path

import modelindex
import pytest
import yaml

from mmkdml.modes import MODES

ROOT = Path(__file__).parents[1]
NETWORKS = dict(resnet50='r50', resnet18='r18', mobilenet='mbv1')
WRITER = '.ci/metafiles.py'


@pytest.fixture(scope='module')
def figures():
    """Metrics by name of the model and source, such as ``Table 4`` or ``docs/studies/lgg64``."""
    return {
        (model['Name'], result['Source'].split(' of ')[0].split(', ')[0]): result['Metrics']
        for path in ROOT.glob('configs/*/metafile.yml')
        for model in yaml.load(path.read_text(), getattr(yaml, 'CSafeLoader', yaml.SafeLoader))[
            'Models'
        ]
        for result in model.get('Results', ())
    }


def read(path):
    with (ROOT / path).open(newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def test_files_are_up_to_date(monkeypatch):
    monkeypatch.chdir(ROOT)
    expected = runpy.run_path(str(ROOT / WRITER))['metafiles']()
    written = {path: (ROOT / path).read_text(encoding='utf-8') for path in expected}
    assert written == expected, f'Run python {WRITER}'


def test_modelindex_reads_every_config():
    index = modelindex.load(str(ROOT / 'model-index.yml'))
    assert index.check(silent=True) == []
    configs = {model.config for model in index.models}
    folders = [path.parent for path in ROOT.glob('configs/*/metafile.yml')]
    assert {'kdml', 'comparisons', 'study'} < {folder.name for folder in folders}
    assert configs == {
        path.relative_to(ROOT).as_posix() for folder in folders for path in folder.glob('*.py')
    }
    names = [model.name for model in index.models]
    assert len(set(names)) == len(names)
    (model,) = (one for one in index.models if one.name == 'kdml_r50_r18x2_v3_lgg')
    assert model.results[0].metrics['ensemble IoU'] == 80.12  # Table 4
    assert model.full_model.paper['URL'].endswith('2023.107764')


def model_name(row):
    data = row['dataset']
    if data == 'ham10000':
        data += '_cls' if row['task'] == 'classification' else '_seg'
    if row['mode'] in MODES:
        student = NETWORKS.get(row['student'], row['student'])
        return f'{row["mode"]}_r50_{student}x2_{row["style"]}_{data}'
    if row['mode'] == 'comparison':
        return f'comparisons_{row["method"]}_r50_r18_{data}'
    return f'baselines_{NETWORKS[row["method"]]}_{data}'


def test_every_figure_of_the_paper_is_at_its_config(figures):
    rows = [
        row
        for row in read('mmkdml/experiments/paper/data/reference_results.csv')
        # Table 10 repeats the values of KD+ML v3.
        if row['version'] == 'v2' and row['method'] != 'ours'
    ]
    for row in rows:
        metric = {'iou': 'IoU', 'f1': 'F1'}.get(row['metric'], row['metric'])
        member = '' if row['member'] == 'single' else f'{row["member"]} '
        prefix = 'fidelity ' if row['quantity'] == 'fidelity' else ''
        found = figures[model_name(row), row['table']]
        assert found[f'{prefix}{member}{metric}'] == float(row['mean']), row
        assert found[f'{prefix}{member}{metric} (std)'] == float(row['std']), row
    known = {(model_name(row), row['table']) for row in rows}
    in_tables = {place for place in figures if place[1].startswith('Table')}
    # The suite of Table 8 compares it with the same baseline of the paper.
    assert in_tables == known | {('baselines_r50_c1024_pcam', 'Table 2')}
    assert sum(len(figures[place]) for place in known) == 2 * len(rows)


STUDIES = sorted(path.parent.name for path in ROOT.glob('docs/studies/*/seeds.csv'))


@pytest.mark.parametrize('study', STUDIES)
def test_figures_of_the_studies_are_means_of_the_seeds(figures, study):
    seeds = {}
    for row in read(f'docs/studies/{study}/seeds.csv'):
        if row['checkpoint'] == 'best':
            name = f'{row["member"]} {row["measure"]}'.removeprefix('model ')
            seeds.setdefault((row['run'], name), []).append(float(row['value']))
    data = study.removeprefix('methods_')
    found = {
        (name.removeprefix(f'study_{data}_'), metric): value
        for (name, source), metrics in figures.items()
        if source == f'docs/studies/{study}'
        for metric, value in metrics.items()
    }
    known = {run for run, _ in seeds}
    assert {run for run, _ in found} == known
    # Tables have the ensemble of every run, and all members of those with two students.
    assert {run for run, name in found if 'ensemble' in name or ' ' not in name} == known
    for (run, name), values in seeds.items():
        if (run, name) not in found:
            assert re.fullmatch(r'(teacher|student(_[1-4])?) .*', name), name
            continue
        assert found[run, name] == pytest.approx(statistics.mean(values), abs=0.006)
        assert found[run, f'{name} (std)'] == pytest.approx(statistics.stdev(values), abs=0.006)
