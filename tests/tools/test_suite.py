"""Commands of suite.py with real trainings and a killed worker."""

import signal
import subprocess
import sys
import time
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from mmkdml.apis import load_config
from mmkdml.datasets import convert_lgg
from mmkdml.datasets.synthetic import make_demo_data
from mmkdml.experiments import load_suite, read_suite
from mmkdml.experiments.suites.execution import worker
from mmkdml.experiments.suites.execution.execute import execute
from mmkdml.experiments.suites.serialization import RESULT, deserialize_result
from mmkdml.experiments.suites.store import SuiteStore
from mmkdml.models.checkpoints import load_checkpoint_file
from mmkdml.statistics.power import Plan, Variances, detectable

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'suite.py'
STUDENT = 'kd_off_v3/seed_0'
SUITES = sorted((ROOT / 'suites').glob('*.py'))


@pytest.fixture(scope='module')
def small(data_options, tmp_path_factory):
    """Suite file of a teacher and an offline variant on a few synthetic slices."""
    options = dict(option.split('=', 1) for option in data_options)
    options |= {'train_cfg.max_epochs': 3, 'param_scheduler.T_max': 3}
    path = tmp_path_factory.mktemp('suite') / 'small.py'
    path.write_text(
        'from mmkdml.experiments import variant_runs\n'
        f'title, measures, seeds, options = "Small", ["IoU", "F1"], [0], {options}\n'
        'runs = [dict(name="teacher", config="configs/demo/teacher_demo.py"),\n'
        '        variant_runs("configs/demo/kdml_v3_demo.py", "teacher", "Table 4")[5]]\n'
    )
    return path


@pytest.fixture(scope='module')
def start(forked_python):
    """Return a function that starts a suite in a forked process.

    Its runs are forked, too, except the teacher's of ``killed``; starting each takes 5 s.
    """

    def start_run(args, **options):
        is_new = '/teacher/' in args[-1]
        return (subprocess.Popen if is_new else forked_python)(args, **options)

    def start(folder, suite):
        return forked_python(
            [sys.executable, str(TOOL), 'run', str(suite), '--work-dir', str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            worker, 'subprocess', SimpleNamespace(**vars(subprocess) | dict(Popen=start_run))
        )
        yield start


@pytest.fixture
def output_of(tool, capsys, monkeypatch):
    """Return a function that runs a command in this process and returns its output."""
    monkeypatch.chdir(ROOT)

    def run(command, *args):
        tool('suite', command, *args, experiment=False)
        return capsys.readouterr().out

    return run


@pytest.fixture(scope='module')
def killed(small, start, tmp_path_factory):
    """Folder of a suite with two workers, one of which was killed, and the output of both."""
    folder = tmp_path_factory.mktemp('killed')
    both = [start(folder, small) for _ in range(2)]
    end = time.monotonic() + 600
    while not (folder / f'{STUDENT}/epoch_1.pth').exists():
        assert any(process.poll() is None for process in both)
        assert time.monotonic() < end
        time.sleep(0.01)
    teacher, student = SuiteStore.in_folder(folder).states()
    assert (teacher.state, student.state) == ('done', 'running')
    killed = next(process for process in both if f'#{process.pid}.' in student.worker)
    killed.kill()
    output = [process.communicate()[0] for process in both]
    assert sorted(process.returncode for process in both) == [-signal.SIGKILL, 0]
    return folder, output


@pytest.mark.slow
def test_run_of_a_killed_worker_equals_an_undisturbed_one(small, killed, all_forked, tmp_path):
    """The run is continued by the other worker; both have the same teacher."""
    folder, output = killed
    finished = [line.split()[0] for text in output for line in text.splitlines() if '; ' in line]
    assert {STUDENT, 'teacher/seed_0'} <= {*finished}
    assert '2 of 2 done' in [text.splitlines()[-1] for text in output]
    spec = load_suite(small).runs[1]
    all_forked((execute, spec, tmp_path, folder / 'teacher/seed_0', 'none'))
    continued, undisturbed = (
        deserialize_result((path / RESULT).read_bytes())[0] for path in (folder / STUDENT, tmp_path)
    )
    assert continued.keys() == undisturbed.keys() == {'best', 'last'}
    for checkpoint, measurement in undisturbed.items():
        assert continued[checkpoint].metrics == measurement.metrics
        assert 'student_1/foreground/IoU' in measurement.metrics
        pd.testing.assert_frame_equal(continued[checkpoint].cases, measurement.cases)
    weights, expected = (
        load_checkpoint_file(path / 'epoch_3.pth')['state_dict']
        for path in (folder / STUDENT, tmp_path)
    )
    torch.testing.assert_close(weights, expected, atol=0, rtol=0)


@pytest.mark.slow
def test_output_of_commands(small, killed, output_of, tmp_path):
    folder, outputs = killed
    first = next(text for text in outputs if '2 of 2 done' in text).splitlines()
    assert '2 runs of 2 configs' in first[0]
    assert len(first) < 8
    assert first[-1] == '2 of 2 done'
    place = (small, '--work-dir', folder)
    for command in ('run', 'resume'):
        assert output_of(command, *place) == '2 of 2 done\n'  # no run is repeated
    status = output_of('status', *place)
    assert [line.split()[1] for line in status.splitlines() if '| done' in line] == [
        'teacher',
        'kd_off_v3',
    ]
    for form in ('text', 'markdown', 'latex', 'csv'):
        for checkpoint in ('best', 'last'):
            text = output_of('table', *place, '--format', form, '--checkpoint', checkpoint)
            assert ('kd_off' if form == 'csv' else 'Small') in text
    report = tmp_path / 'report.html'
    assert str(report) in output_of('report', *place, '--out', report)
    assert '<html' in report.read_text()
    assert f'suite.py table {small} --work-dir {folder}' in unescape(report.read_text())


@pytest.mark.parametrize(
    ('command', 'suite', 'message'),
    [
        ('run', 'nowhere.py', 'nowhere.py'),
        ('resume', 'suites/mini_segmentation.py', 'has not been started there'),
    ],
)
def test_user_error_is_one_line(output_of, tmp_path, command, suite, message):
    with pytest.raises(SystemExit) as stopped:
        output_of(command, suite, '--work-dir', tmp_path)
    assert str(stopped.value).startswith('suite.py: error: ')
    assert message in str(stopped.value)


# Number of students of other classrooms.
MORE = dict(students_alone=2, kdml_v1_x3=3, kdml_v1_x4=4)


@pytest.mark.parametrize('path', SUITES, ids=lambda path: path.stem)
def test_suites_of_the_repository(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = load_suite(path)
    first = [run for run in suite.runs if run.seed == 0 and run.fold in (None, 0)]
    # Two baselines and the twelve variants; or KD+ML v3, plain KD and the compared methods, in the
    # study of Table 10 also with two students of the best one; the recent methods are six for
    # several classes, otherwise three.
    compared = {
        'table_10': 11,
        'study_methods': 12,
        'recent_ham10000_cls': 4 + 6,
        'recent_ham64': 4 + 6,
        'recent': 4 + 3,
        'study_bccd192': 14 + len(MORE),
        'study_ham_cv': 15,
        'study_lgg_cv_all': 15,
        'study_lgg_cv': 6,
        'study_hippocampus': 6,
    }
    assert len(first) == next((compared[key] for key in compared if key in path.stem), 14)
    for run in first:
        config = load_config(run.config, run.options)
        mode, _, style = run.run.rpartition('_')
        if run.run in MORE:
            assert list(config.model.members)[-1] == f'student_{MORE[run.run]}'
            assert 'frozen' not in config.model
        elif 'members' in config.model:
            assert run.teacher == first[0].name
            assert list(config.model.frozen) == ['teacher']
            assert f'_{run.run}.' in run.config or f'/{run.run}_' in run.config
        elif mode:
            assert (config.model.mode, config.model.style) == (mode, style)
            assert (run.teacher is None) is (mode != 'kd_off')
        else:
            assert config.default_hooks.checkpoint.save_best.startswith('model/')


def test_each_table_of_the_paper_has_a_suite():
    tables = {table for path in SUITES for table in load_suite(path).paper_tables}
    assert {f'Table {number}' for number in (2, 3, 4, 8, 9, 10, 13, 14, 15)} <= tables


def test_storage_is_a_database_url(tmp_path, output_of, small):
    url = f'sqlite:///{tmp_path / "elsewhere.db"}'
    SuiteStore(url)
    assert output_of('status', small, '--storage', url).splitlines()[-1] == '0 of 0 done'


@pytest.mark.parametrize(
    ('engine', 'option'),
    [
        ('local', '--gpus=2'),
        ('local', '--address=2'),
        ('local', '--wait-for-nodes'),
        ('ray', '--workers=2'),
    ],
)
def test_options_of_the_other_engine_are_refused(tool, tmp_path, capsys, engine, option):
    with pytest.raises(SystemExit, match='2'):
        tool('suite', 'run', tmp_path, '--engine', engine, option, experiment=False)
    message = capsys.readouterr().err
    assert option.partition('=')[0] in message
    assert f'got --engine {engine}' in message


def test_stopped_suite_names_the_command_with_its_engine(tool, small, tmp_path, monkeypatch):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr('mmkdml.experiments.run_on_ray', stop)
    with pytest.raises(SystemExit, match=r'resume .*small\.py .*--engine ray'):
        tool(*('suite', 'run', small, '--work-dir', tmp_path, '--engine', 'ray'), experiment=False)


def test_options_of_ray_are_passed(tool, small, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr('mmkdml.experiments.run_on_ray', lambda *args: calls.append(args[2:]))
    options = ('--engine', 'ray', '--address', 'auto', '--processes', 2, '--gpus', 0.5)
    for more in ((), ('--wait-for-nodes',)):
        tool('suite', 'run', small, '--work-dir', tmp_path, *options, *more, experiment=False)
    assert calls == [('auto', 2, None, 0.5, False, waits) for waits in (False, True)]


def test_clock_of_another_machine_may_be_ahead(tmp_path, output_of, small):
    url = f'sqlite:///{tmp_path / "elsewhere.db"}'
    suite, store = load_suite(small), SuiteStore(url)
    store.register(suite.runs, {run.name: '' for run in suite.runs}, suite.name)
    assert store.claim(store.states()[0], 'elsewhere#1.1', time.time() + 3600)
    (row,) = (
        line.split('|')
        for line in output_of('status', small, '--storage', url).splitlines()
        if 'running' in line and '|' in line
    )
    assert row[4].strip() == '0 s'


def test_power_of_a_planned_suite(output_of):
    """Nothing has been run: sizes and standard deviations are stated."""
    sizes = ('--groups', 20, 110, '--seeds', 1, 3, '--claims', 3)
    text = output_of(
        'power', 'suites/mini_segmentation.py', *sizes, '--seed-sd', 2, '--case-sd', 10
    )
    assert '14 runs and 3 corrected claims' in text
    rows = [line.strip('| ').split() for line in text.splitlines() if '|' in line][1:]
    expected = [detectable(Plan(14, 3, groups, 3), Variances(2, 10)) for groups in (20, 110)]
    assert [row[::2] for row in rows] == [
        [groups, '-', f'{value:.2f}'] for groups, value in zip(('20', '110'), expected, strict=True)
    ]


def test_power_counts_a_run_in_folds_once(output_of, tmp_path):
    path = tmp_path / 'folds.py'
    path.write_text(
        'measures, seeds, folds = ["IoU"], [0, 1, 2], 5\n'
        'runs = [dict(name="big", config="configs/demo/teacher_demo.py"),\n'
        '        dict(name="kd", config="configs/demo/kdml_v3_demo.py", teacher="big",\n'
        '             teacher_folds="out")]\n'
    )
    text = output_of('power', path, '--groups', 20, '--seed-sd', 2, '--case-sd', 10)
    assert 'for 2 runs and 1 corrected claim.' in text
    assert 'Differences of IoU in points that' in text
    sizes = ('--measure', 'HD95', '--groups', 20, '--seed-sd', 2, '--case-sd', 10)
    assert 'Differences of HD95 in mm that' in output_of('power', path, *sizes)


def test_power_without_results_needs_standard_deviations(output_of, tmp_path):
    with pytest.raises(SystemExit) as stopped:
        output_of('power', 'suites/mini_segmentation.py', '--work-dir', tmp_path)
    assert 'has not been started there' in str(stopped.value)
    assert 'state --groups, --seed-sd and --case-sd' in str(stopped.value)


@pytest.mark.slow
def test_folds_from_the_worker_to_tables_and_predictions(start, output_of, tool, capsys, tmp_path):
    source = make_demo_data(tmp_path / 'kaggle_3m', patients=6, slices=2, size=64)
    convert_lgg(source, tmp_path / 'splits', ratios=(50, 50, 0), folds=2)
    options = {'train_cfg.max_epochs': 1, 'param_scheduler.T_max': 1}
    for part in ('train', 'val', 'test'):
        options |= {
            f'{part}_dataloader.dataset.data_root': str(source),
            f'{part}_dataloader.dataset.ann_file': str(tmp_path / 'splits' / f'{part}.csv'),
        }
    path = tmp_path / 'folds.py'
    path.write_text(
        f'measures, seeds, folds, options = ["IoU"], [0], 2, {options}\n'
        'runs = [dict(name="big", config="configs/demo/teacher_demo.py")]\n'
    )
    folder = tmp_path / 'runs'
    output = start(folder, path).communicate()[0]
    assert output.splitlines()[-1].startswith('2 of 2 done')
    command = (str(path), '--work-dir', folder)
    assert 'big/fold_1' in output_of('status', *command)
    record = read_suite(load_suite(path, folder), SuiteStore.in_folder(folder))
    (run,) = record.runs
    assert (run.name, run.folds, len(run.measured['best'].cases)) == ('big', 2, 12)
    assert run.measured['best'].cases.id.is_unique
    rows = output_of('table', *command, '--format', 'folds')
    assert 'big/fold_0' in rows
    (report,) = output_of('report', *command).split()[1:]
    assert 'fold_1/test' in Path(report).read_text()
    image = next(source.rglob('*_1.tif'))
    tool('predict', folder / 'big', image, '--out', tmp_path / 'out', '--no-overlays')
    assert '1 cases predicted' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='2'):
        tool('predict', folder / 'big/fold_0/seed_0', image, '--out', tmp_path / 'o', '--seed', 0)
