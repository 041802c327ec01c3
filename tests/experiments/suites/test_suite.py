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


def test_runs_are_ordered_by_seed_and_teachers_first(write):
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


def test_each_variant_has_all_runs_and_their_teachers(write):
    text = GOOD.replace('[3, 5]', '[0]') + "variants = {'cold': {'c': 2, 'd': 2}, 'hot': {}}\n"
    runs = {run.name: run for run in load_suite(write(text)).runs}
    assert list(runs) == ['cold/big', 'hot/big', 'cold/small', 'hot/small']
    assert runs['cold/small'].teacher == 'cold/big'
    # Options of the run override those of the variant, which override those of the suite.
    assert runs['cold/small'].options == {'a.b': 1, 'c': 3, 'd': 2}
    assert runs['hot/big'].options == {'a.b': 1, 'c': 1, 'd': 1}


def test_yaml_file(write):
    text = 'measures: [accuracy]\nseeds: [0]\nwork_dir: there\namp: true\nruns:\n'
    suite = load_suite(write(text + '- config: teacher.py\n', 'small.yaml'))
    assert suite.runs == (RunSpec('teacher', 0, 'teacher.py', {}, None, True),)
    assert str(suite.work_dir) == 'there'


def test_data_files_inherit_only_data_files_and_execute_no_code(write, tmp_path):
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
        with pytest.raises(ValueError, match=r'_base_ .*\.yaml, \.yml, \.json'):
            load_suite(write(f'_base_: {base}\n{text}', 'small.yaml'))
    for extra in ('custom_imports: {imports: [code]}', 'a: !!python/object/apply:os.mkdir [made]'):
        with pytest.raises(ValueError, match=r'small\.yaml.*(unknown custom_imports|Error)'):
            load_suite(write(f'{extra}\n{text}', 'small.yaml'))
    assert not (tmp_path / 'made').exists()


@pytest.mark.parametrize(
    ('before', 'after', 'message'),
    [
        ('seeds = [3, 5]', '', r'missing seeds\. .* amp, '),
        ("title = 'Small'", "titel = 'Small'", r'unknown titel\. .* title'),
        ('[3, 5]', '[]', r'seeds .* got \[\]'),
        ('[3, 5]', '[True]', r'seeds .* got \[True\]'),
        ('[3, 5]', '[3, 3]', r'seeds .* got \[3, 3\]'),
        ("['IoU']", "['Dize']", r"measures .* IoU, .* got \['Dize'\]"),
        ("['IoU']", "'IoU'", r"measures .* got 'IoU'"),
        ("name='small'", "name='big'", r"names, got 'big' .*student.py and teacher.py"),
        ("name='small'", "name='../up'", r"name .* got '\.\./up'"),
        ("name='small'", "nmae='small'", r'run .* unknown nmae\. .* config, name'),
        ("teacher='big'", "teacher='bog'", r"teacher of 'small' .*\bbig\b.* got 'bog'"),
        ("name='big')", "name='big', teacher='small')", r'circular .*(small|big) -> '),
        ('runs = [*', 'runs = []; _x = [*', r'runs .* got \[\]'),
        ('runs = [', 'runs = [7, ', r'run 7: expected a dict, got int'),
        ('title =', 'title = = ', '.*Error'),
    ],
)  # fmt: skip
def test_invalid_suite_file_raises(write, before, after, message):
    assert before in GOOD
    with pytest.raises(ValueError, match=rf'(?=.*small\.py).*{message}'):
        load_suite(write(GOOD.replace(before, after)))


def test_missing_files_raise(write):
    with pytest.raises(FileNotFoundError, match=r'nowhere\.py'):
        load_suite('nowhere.py')
    path = write(GOOD.replace("config='student.py'", "config='configs/gone.py'"))
    with pytest.raises(FileNotFoundError, match=r"configs/gone\.py of run 'small' in small\.py"):
        load_suite(path)


def test_folds_repeat_every_run_with_the_teacher_of_the_fold(write):
    suite = load_suite(write(GOOD.replace('[3, 5]', '[3]') + 'folds = 2\n'))
    assert suite.folds == 2
    assert [run.key for run in suite.runs] == [
        'big/fold_0/seed_3', 'small/fold_0/seed_3', 'big/fold_1/seed_3', 'small/fold_1/seed_3'
    ]  # fmt: skip
    assert suite.runs[3].teacher == 'big/fold_1'
    assert load_suite(write(GOOD)).folds is None


def test_teachers_of_other_folds(write):
    out = GOOD.replace("teacher='big'", "teacher='big', teacher_folds='out'")
    assert out != GOOD
    suite = load_suite(write(out + "folds = 3\nvariants = {'hot': {}}\n"))
    names = [run.name for run in suite.runs if run.seed == 5]
    assert names[:3] == [f'hot/big/fold_{pair}' for pair in ('0_1', '0_2', '1_2')]
    student = next(run for run in suite.runs if run.name == 'hot/small/fold_1')
    assert student.fold_teachers == ('hot/big/fold_0_1', None, 'hot/big/fold_1_2')
    assert len({run.key for run in suite.runs}) == len(suite.runs) == 2 * (3 + 3 * 2)


@pytest.mark.parametrize(
    ('out', 'folds', 'message'),
    [
        ('same', 1, 'folds in .*at least 2, got 1'),
        ('same', '5', "folds in .*got '5'"),
        ('same', True, 'folds in .*got True'),
        ('out', None, "folds for teacher_folds of 'small'.*got None"),
        ('out', 2, 'at least 3, got 2'),
        ('other', 3, "teacher_folds of 'small'.*'same' or 'out', got 'other'"),
    ],
)
def test_invalid_folds_raise(write, out, folds, message):
    text = GOOD.replace("teacher='big'", f"teacher='big', teacher_folds={out!r}")
    with pytest.raises(ValueError, match=message):
        load_suite(write(f'{text}folds = {folds!r}\n'))


@pytest.mark.parametrize('teacher', ["teacher='small', ", ''])
def test_teachers_of_other_folds_have_no_teacher_of_their_own(write, teacher):
    run = f"runs.append(dict(name='x', config='student.py', {teacher}teacher_folds='out'))\n"
    with pytest.raises(ValueError, match="teacher of 'x'.*without a teacher of its own"):
        load_suite(write(f'{GOOD}folds = 3\n{run}'))
