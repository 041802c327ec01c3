"""Write model-index.yml and configs/*/metafile.yml: the configs with the figures of the paper and
of our studies. Usage: python .ci/metafiles.py [FOLDER]"""

import csv
import itertools
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from mmkdml.experiments import load_suite
from mmkdml.experiments.paper.values import FIDELITY, NETWORKS, PERFORMANCE, SINGLE, paper_value
from mmkdml.experiments.suites.suite import Suite
from mmkdml.modes import MODES

ROOT = Path(__file__).resolve().parents[1]
PAPER = dict(
    Title='Leveraging different learning styles for improved knowledge distillation in biomedical '
    'imaging',
    URL='https://doi.org/10.1016/j.compbiomed.2023.107764',
)
# Demo configs have synthetic data, and no figures.
COLLECTIONS = dict(
    baselines='Baselines',
    ml='Mutual learning',
    kd_off='Offline distillation',
    kd_on='Online distillation',
    kdml='Distillation and mutual learning',
    comparisons='Compared methods',
    weights='Transfer weights that change',
    study='Studies with small networks',
)
TASKS = dict(
    segmentation='Semantic Segmentation',
    classification='Image Classification',
    detection='Object Detection',
)
# Task and data set by a part of the config's name.
DATA = {
    'pcam': ('classification', 'PCam'),
    'ham10000_cls': ('classification', 'HAM10000'),
    'ham10000_seg': ('segmentation', 'HAM10000'),
    'ham10000_det': ('detection', 'HAM10000'),
    'bccd': ('detection', 'BCCD'),
    'ham64': ('classification', 'HAM10000'),
    'lgg': ('segmentation', 'LGG MRI segmentation'),
    'nih': ('classification', 'NIH ChestX-ray14'),
    'hippocampus': ('segmentation', 'Hippocampus (Medical Segmentation Decathlon)'),
}
MEMBERS = ('teacher', 'student_1', 'student_2', 'ensemble')


def task_and_data(config: Path) -> tuple[str, str]:
    for key, value in DATA.items():
        if key in config.stem:
            return value
    raise ValueError(f'{config}: expected one of {", ".join(DATA)} in its name. Add it to DATA')


def result(config: Path, source: str, metrics: dict[str, float]) -> dict[str, Any]:
    task, data = task_and_data(config)
    return dict(Task=TASKS[task], Dataset=data, Source=source, Metrics=metrics)


def place(run: str) -> tuple[str, str, str]:
    """Return mode, style and method, by which the paper's tables are searched."""
    mode, _, style = run.rpartition('_')
    if mode in MODES:
        return mode, style, ''
    return ('baseline' if run in NETWORKS else 'comparison'), '', run


def paper_results(suite: Suite) -> Iterator[tuple[str, dict[str, Any], list[str]]]:
    """Yield config, result and doubts for each table of the paper in which a run has figures."""
    for run in suite.runs:
        mode, style, method = place(run.name)
        members = (SINGLE,) if method else MEMBERS
        for table in suite.paper_tables:
            metrics, doubts = {}, []
            for quantity, member, measure in itertools.product(
                (PERFORMANCE, FIDELITY), members, suite.measures
            ):
                value = paper_value((table,), mode, style, member, measure, method, quantity)
                if value is not None:
                    name = ' '.join([*[quantity] * (quantity == FIDELITY), member, measure])
                    name = name.replace(f'{SINGLE} ', '')
                    metrics |= {name: value.mean, f'{name} (std)': value.std}
                    doubts += [f'{table}, {name}: {value.doubt}'] * bool(value.doubt)
            if metrics:
                source = f'{table} of the paper, three runs'
                yield run.config, result(Path(run.config), source, metrics), doubts


def study_results(suite: Suite) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield config, run and result of the runs of a study."""
    folder = f'docs/studies/{suite.name.removeprefix("study_")}'
    if not (ROOT / folder / 'table_best.csv').is_file():  # has not been run yet
        return
    with (ROOT / folder / 'table_best.csv').open(newline='', encoding='utf-8') as file:
        rows = [row for row in csv.DictReader(file) if row['run'] and row['mean']]
    configs = {run.run: run.config for run in suite.runs}
    for run, config in configs.items():
        metrics, seeds = {}, ''
        for row in rows:
            if row['run'] == run:
                name = f'{row["member"]} {row["measure"]}'.removeprefix('model ')
                seeds = row['n']
                metrics |= {name: round(float(row['mean']), 2)}
                metrics |= {f'{name} (std)': round(float(row['std']), 2)}
        yield config, run, result(Path(config), f'{folder}, {seeds} runs, best checkpoint', metrics)


def models() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the folder and entry of each config; of each run if a study shares a config."""
    results: dict[str, list[dict[str, Any]]] = {}
    notes: dict[str, list[str]] = {}
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for path in sorted(ROOT.glob('suites/*.py'), key=lambda one: _numbers(one.stem)):
        suite = load_suite(path)
        if suite.name.startswith('study_'):
            for config, run, own in study_results(suite):
                runs.setdefault(config, {}).setdefault(run, []).append(own)
            continue
        for config, own, doubts in paper_results(suite):
            if own not in results.setdefault(config, []):
                results[config].append(own)
                notes.setdefault(config, []).extend(doubts)
    for folder in COLLECTIONS:
        for path in sorted((ROOT / 'configs' / folder).glob('*.py')):
            config = path.relative_to(ROOT).as_posix()
            name = f'{folder}_{path.stem}'
            of_runs = runs.get(config, {})
            entries = (
                {f'{name}_{run}': own for run, own in of_runs.items()}
                if len(of_runs) > 1
                else {name: results.get(config, []) + [one for v in of_runs.values() for one in v]}
            )
            for title, own in entries.items():
                entry = dict(Name=title, Config=config)
                entry['In Collection'] = COLLECTIONS[folder]
                entry['Metadata'] = {'Training Data': task_and_data(path)[1]}
                yield (
                    folder,
                    entry
                    | (dict(Results=own) if own else {})
                    | (dict(Notes=notes[config]) if notes.get(config) else {}),
                )


def _numbers(text: str) -> list[Any]:
    """Order table_4 before table_10."""
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', text)]


def metafiles() -> dict[str, str]:
    """Return the text of each file by its path in the repository."""
    content: dict[str, Any] = {
        f'configs/{folder}/metafile.yml': dict(
            Collections=[dict(Name=name, Paper=PAPER)], Models=[]
        )
        for folder, name in COLLECTIONS.items()
        if (ROOT / 'configs' / folder).is_dir()
    }
    for folder, entry in models():
        content[f'configs/{folder}/metafile.yml']['Models'].append(entry)
    content['model-index.yml'] = dict(Import=list(content))
    heading = '# Written by .ci/metafiles.py from mmkdml/experiments/paper/data and docs/studies.\n'
    options: dict[str, Any] = dict(sort_keys=False, width=100, allow_unicode=True)
    return {
        path: heading + yaml.dump(one, Dumper=_Dumper, **options) for path, one in content.items()
    }


class _Dumper(yaml.SafeDumper):
    """Repeats equal values instead of writing aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


if __name__ == '__main__':
    os.chdir(ROOT)
    for path, text in metafiles().items():
        target = Path(*sys.argv[1:2], path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding='utf-8')
