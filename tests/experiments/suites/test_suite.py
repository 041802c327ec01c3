import re

import pytest

from mmkdml.experiments import RunSpec, load_suite

GOOD = """
title = 'Small'
measures = ['IoU']
paper_tables = ['Table 4']
seeds = [3, 5]
options = {'a.b': 1, 'c': 1, 'd': 1}
_helper = [dict(config='student.py', teacher='big', options={'c': 3}, name='small')]
runs = [*_helper, dict(config='teacher.py', name='big')]
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('teacher.py', 'student.py'):
        (tmp_path / name).write_text('')

    def write(text, name='small.py'):
        (tmp_path / name).write_text(text)
        return name

    return write


def test_a_grid_of_runs_and_seeds_with_teachers_first(write):
    suite = load_suite(write(GOOD))
    small = {'a.b': 1, 'c': 3, 'd': 1}
    big = {'a.b': 1, 'c': 1, 'd': 1}
    assert suite.runs == (
        RunSpec('big', 3, 'teacher.py', big),
        RunSpec('small', 3, 'student.py', small, 'big'),
        RunSpec('big', 5, 'teacher.py', big),
        RunSpec('small', 5, 'student.py', small, 'big'),
    )
    assert (suite.name, suite.title, suite.measures) == ('small', 'Small', ('IoU',))
    assert suite.paper_tables == ('Table 4',)
    assert str(suite.work_dir) == 'work_dirs/suites/small'
    assert [run.key for run in suite.runs[:2]] == ['big/seed_3', 'small/seed_3']
    assert str(load_suite('small.py', 'elsewhere').work_dir) == 'elsewhere'


def test_variants_multiply_the_runs_and_each_has_its_teacher(write):
    text = GOOD.replace('[3, 5]', '[0]') + "variants = {'cold': {'c': 2, 'd': 2}, 'hot': {}}\n"
    runs = {run.name: run for run in load_suite(write(text)).runs}
    assert list(runs) == ['cold/big', 'hot/big', 'cold/small', 'hot/small']
    assert runs['cold/small'].teacher == 'cold/big'
    # Its own before its variant's, and that before the suite's.
    assert runs['cold/small'].options == {'a.b': 1, 'c': 3, 'd': 2}
    assert runs['hot/big'].options == {'a.b': 1, 'c': 1, 'd': 1}


def test_yaml(write):
    text = 'measures: [accuracy]\nseeds: [0]\nwork_dir: there\namp: true\nruns:\n'
    suite = load_suite(write(text + '- config: teacher.py\n', 'small.yaml'))
    assert suite.runs == (RunSpec('teacher', 0, 'teacher.py', {}, None, True),)
    assert str(suite.work_dir) == 'there'


def test_data_inherits_data_and_runs_no_code(write, tmp_path):
    code = f'import os\nos.mkdir({str(tmp_path / "made")!r})\n'
    write(code, 'code.py')
    text = 'measures: [accuracy]\nseeds: [0]\nruns: [{config: teacher.py}]\n'
    write(text, 'base.yaml')
    assert load_suite(write('_base_: base.yaml\nseeds: [1]\n', 'small.yaml')).runs[0].seed == 1
    assert load_suite(write('{"_base_": ["./small.yaml"]}', 'small.json')).runs[0].seed == 1
    write('_base_: code.py\n', 'between.yml')
    for base in (
        'code.py',
        'between.yml',
        '"{{ $NO:code.py }}"',
        '[base.yaml, code.py]',
        'a::b.yaml',
    ):
        with pytest.raises(ValueError, match=r'may inherit \.yaml, \.yml, \.json files'):
            load_suite(write(f'_base_: {base}\n{text}', 'small.yaml'))
    for extra in ('custom_imports: {imports: [code]}', 'a: !!python/object/apply:os.mkdir [made]'):
        with pytest.raises(ValueError, match='unknown: custom_imports|cannot be read as a suite'):
            load_suite(write(f'{extra}\n{text}', 'small.yaml'))
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    ('before', 'after', 'message'),
    [
        ('seeds = [3, 5]', '', r'missing: seeds\. The keys are amp, '),
        ("title = 'Small'", "titel = 'Small'", r'unknown: titel\. The keys are .*title'),
        ('[3, 5]', '[]', r'seeds must be a list of integers, got \[\]'),
        ('[3, 5]', '[True]', r'seeds must be a list of integers, got \[True\]'),
        ('[3, 5]', '[3, 3]', r'a seed comes twice in \[3, 3\]'),
        ("['IoU']", "['Dice']", r"measures must be among IoU, .*; got \['Dice'\]"),
        ("['IoU']", "'IoU'", r"measures must be a list of names, got 'IoU'"),
        ("name='small'", "name='big'", r"the name 'big' comes twice, for student.py and teacher"),
        ("name='small'", "name='../up'", r"a name may have letters, .* got '\.\./up'"),
        ("name='small'", "nmae='small'", r'run .*: unknown: nmae\. The keys are config, name'),
        ("teacher='big'", "teacher='bog'", r"teacher of 'small' is 'bog', which is no run .* big"),
        ("name='big')", "name='big', teacher='small')", r'in a circle: (small|big) -> '),
        ('runs = [*', 'runs = []; _x = [*', r'runs must be a list of dicts, got \[\]'),
        ('runs = [', 'runs = [7, ', r'run 7: expected a dict, got int'),
        ('title =', 'title = = ', r'cannot be read as a suite file: .*Error'),
    ],
)  # fmt: skip
def test_what_a_suite_file_may_not_say(write, before, after, message):
    assert before in GOOD
    with pytest.raises(ValueError, match=f'small.py.*{message}'):
        load_suite(write(GOOD.replace(before, after)))


def test_files_that_are_not_there(write):
    with pytest.raises(FileNotFoundError, match=re.escape('There is no suite file nowhere.py')):
        load_suite('nowhere.py')
    path = write(GOOD.replace("config='student.py'", "config='configs/gone.py'"))
    with pytest.raises(
        FileNotFoundError, match=r"run 'small' names the config configs/gone.py, whi"
    ):
        load_suite(path)
