"""The whole way through a suite, undisturbed and killed twice, with real trainings."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mmkdml.apis import load_config
from mmkdml.experiments import load_suite
from mmkdml.experiments.store import SuiteStore

ROOT = Path(__file__).parents[2]
TOOL = ROOT / 'tools' / 'suite.py'
SUITES = sorted((ROOT / 'suites').glob('*.py'))


@pytest.fixture(scope='module')
def small(data_options, tmp_path_factory):
    """A suite of a teacher and those it teaches, on a few made-up slices."""
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


def start(command, *args):
    return subprocess.Popen(
        [sys.executable, TOOL, command, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )


def done(command, *args):
    process = start(command, *args)
    out, error = process.communicate()
    assert process.returncode == 0, error
    return out


def kill_when(path, *args):
    process = start(*args)
    end = time.monotonic() + 300
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(scope='module')
def undisturbed(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp('undisturbed')
    return folder, done('run', small, '--work-dir', folder)


@pytest.mark.slow
def test_a_suite_that_was_killed_twice_ends_with_the_same_table(small, undisturbed, tmp_path):
    place = (small, '--work-dir', tmp_path)
    kill_when(tmp_path / 'teacher/seed_0/epoch_2.pth', 'run', *place)
    kill_when(tmp_path / 'kd_off_v3/seed_0/epoch_1.pth', 'resume', *place)
    said = done('resume', *place)
    assert 'teacher/seed_0' not in said  # it was finished before the second kill
    assert said.splitlines()[-1] == '2 of 2 done'
    for checkpoint in ('best', 'last'):
        tables = [
            done(
                'table', small, '--work-dir', folder, '--format', 'csv', '--checkpoint', checkpoint
            )
            for folder in (tmp_path, undisturbed[0])
        ]
        assert tables[0] == tables[1]
        assert 'kd_off' in tables[0]


@pytest.mark.slow
def test_what_the_commands_say(small, undisturbed, tmp_path):
    folder, said = undisturbed
    assert said.splitlines()[0] == 'teacher/seed_0 started'
    assert said.splitlines()[-1] == '2 of 2 done'
    place = (small, '--work-dir', folder)
    assert done('run', *place) == '2 of 2 done\n'  # nothing is done twice
    status = done('status', *place)
    assert [line.split()[1] for line in status.splitlines() if '| done' in line] == [
        'teacher',
        'kd_off_v3',
    ]
    for form in ('text', 'markdown', 'latex'):
        assert 'Small' in done('table', *place, '--format', form)
    report = tmp_path / 'report.html'
    assert str(report) in done('report', *place, '--out', report)
    assert '<html' in report.read_text()


@pytest.mark.slow
def test_two_processes_share_a_suite(small, tmp_path):
    both = [start('run', small, '--work-dir', tmp_path) for _ in range(2)]
    said = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    started = [line for text in said for line in text.splitlines() if line.endswith('started')]
    assert sorted(started) == ['kd_off_v3/seed_0 started', 'teacher/seed_0 started']
    assert all(text.endswith('2 of 2 done\n') for text in said)


def test_what_a_user_can_mend(tmp_path):
    for args, message in (
        (('run', 'nowhere.py'), 'There is no suite file nowhere.py'),
        (
            ('resume', 'suites/mini_segmentation.py', '--work-dir', tmp_path),
            'was not started there',
        ),
    ):
        process = start(*args)
        error = process.communicate()[1]
        assert process.returncode == 1
        assert message in error.splitlines()[-1]
        assert 'Traceback' not in error


@pytest.mark.parametrize('path', SUITES, ids=lambda path: path.stem)
def test_the_projects_suites(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    suite = load_suite(path)
    first = [run for run in suite.runs if run.seed == 0]
    # Two baselines, and the twelve, or KD+ML v3 beside the methods compared with (in the studies
    # also two students of the best one) and plain KD.
    compared = {'table_10': 11, 'study_methods': 12}
    assert len(first) == next((compared[key] for key in compared if key in path.stem), 14)
    for run in first:
        config = load_config(run.config, run.options)
        mode, _, style = run.name.rpartition('_')
        if 'members' in config.model:
            assert run.teacher == first[0].name
            assert list(config.model.frozen) == ['teacher']
            assert f'_{run.name}.' in run.config or f'/{run.name}_' in run.config
        elif mode:
            assert (config.model.mode, config.model.style) == (mode, style)
            assert (run.teacher is None) is (mode != 'kd_off')
        else:
            assert config.default_hooks.checkpoint.save_best.startswith('model/')


def test_each_table_of_the_paper_has_its_suite():
    tables = {table for path in SUITES for table in load_suite(path).paper_tables}
    assert {f'Table {number}' for number in (2, 3, 4, 8, 9, 10, 13, 14, 15)} <= tables


def test_a_database_by_its_url(tmp_path, monkeypatch, small):
    url = f'sqlite:///{tmp_path / "elsewhere.db"}'
    SuiteStore(url)
    assert done('status', small, '--storage', url).splitlines()[-1] == '0 of 0 done'
