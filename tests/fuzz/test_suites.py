import json
import re
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from mmkdml.experiments.suites.suite import load_suite
from mmkdml.statistics.measures import MEASURES

KEYS = ['title', 'measures', 'seeds', 'runs', 'variants', 'options', 'amp', 'paper_tables',
        'work_dir', '_base_', '_own', 'name', 'config', 'teacher']  # fmt: skip
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
VALUES = st.recursive(
    LEAVES | st.sampled_from(['a', 'b', 'IoU', 'c.py', 'none.py', 'model.mode', 'suite.yaml']),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KEYS) | LEAVES, inner, max_size=4)
    ),
    max_leaves=8,
)
RUNS = st.lists(
    st.fixed_dictionaries(
        {'config': st.just('c.py')},
        optional=dict(
            name=st.sampled_from(['a', 'b', '../x', 3]),
            teacher=st.sampled_from(['a', 'b', 3, [1]]),
            options=VALUES,
        ),
    ),
    max_size=3,
)  # fmt: skip
SUITES = st.fixed_dictionaries(
    dict(runs=RUNS, seeds=st.lists(st.integers(0, 3), max_size=2), measures=st.just(['IoU'])),
    optional=dict(variants=VALUES, options=VALUES, title=VALUES, work_dir=VALUES, amp=VALUES),
)
PATH = re.compile(r'([a-zA-Z0-9][\w.-]*/)?[a-zA-Z0-9][\w.-]*', re.ASCII)  # of the folder of a run
VALID = dict(runs=[dict(config='c.py')], seeds=[0], measures=['IoU'])


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('suites')


@pytest.fixture(autouse=True)
def config_in_working_directory(folder, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / 'c.py').write_text('')


def loaded(attempt, path, content):
    """Load a suite; check its invariants, or that the error names the file."""
    path.write_bytes(content)
    suite = attempt(lambda: load_suite(path), path.name)
    if suite is not None:
        names = [run.name for run in suite.runs]
        assert len({run.key for run in suite.runs}) == len(names) > 0
        assert all(PATH.fullmatch(name) for name in names)
        assert all(Path(run.config).is_file() for run in suite.runs)
        assert all(isinstance(run.options, dict) for run in suite.runs)
        assert all(isinstance(key, str) for run in suite.runs for key in run.options)
        assert all(type(run.seed) is int and 0 <= run.seed < 2**32 for run in suite.runs)
        assert {*suite.measures} <= {*MEASURES}
        done = {None}
        for run in suite.runs[: len({*names})]:  # runs of the first seed, teachers first
            assert run.teacher in done
            done.add(run.name)
    return suite


@given(content=SUITES | VALUES, kind=st.sampled_from(['yaml', 'json']))
@example(content=VALID | dict(runs=[dict(config=3)]), kind='yaml')
@example(content=VALID | dict(runs=[dict(config='c.py', teacher=3)]), kind='yaml')
@example(content=VALID | dict(runs=[dict(config='c.py', options=3)]), kind='yaml')
@example(content=VALID | dict(variants=['hot']), kind='yaml')
@example(content=VALID | dict(variants={3: {}}), kind='yaml')
@example(content=VALID | dict(options={3: 4}), kind='yaml')
@example(content=VALID | dict(work_dir=3), kind='yaml')
@example(content=VALID | {3: 4}, kind='yaml')
@example(content=VALID | dict(seeds=[10**30]), kind='yaml')
@example(content=VALID | dict(seeds=[-1]), kind='yaml')
def test_suite_files_with_any_values(folder, attempt, content, kind):
    try:
        text = (yaml.dump if kind == 'yaml' else json.dumps)(content)
    except (TypeError, UnicodeError, yaml.YAMLError):  # not supported by the format
        return
    loaded(attempt, folder / f'suite.{kind}', text.encode(errors='surrogatepass'))


TOKENS = st.sampled_from(
    ['runs', 'seeds', 'measures', 'IoU', ': ', '\n', '- ', '[', ']', '{', '}', ', ', '&a', '*a',
     '<<', '!!python/object:os.system', '!!binary', '|', '?', '_base_', '"', "'", '\t', '#', '%',
     '---', '2020-01-01']
)  # fmt: skip

BOMB = b'a0: &a0 [x, x]\n' + b''.join(
    b'a%d: &a%d [*a%d, *a%d]\n' % (n, n, n - 1, n - 1) for n in range(1, 40)
)


@given(
    content=st.binary(max_size=40) | st.lists(TOKENS, max_size=20).map(''.join).map(str.encode),
    kind=st.sampled_from(['yaml', 'json', 'yml', 'py', 'txt']),
)
@example(content=b'\xff\xfe', kind='yaml')
@example(content=b'[' * 1500, kind='yaml')
@example(content=b'[' * 200_000, kind='json')
@example(content=b'_base_: suite.yaml', kind='yaml')
@example(content=b'&a [*a]', kind='yaml')
@example(content=BOMB, kind='yaml')
@example(content=b'runs: &a\n- *a\nseeds: [0]\nmeasures: [IoU]', kind='yaml')
def test_suite_files_with_any_text(folder, attempt, content, kind):
    if kind in ('py', 'txt'):
        content = repr(content).encode()  # a string literal, because a Python file is executed
    loaded(attempt, folder / f'suite.{kind}', content)


NAMES = st.sampled_from('abcdef')


@given(
    runs=st.dictionaries(NAMES, st.none() | NAMES, min_size=1),
    seeds=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True),
    options=st.dictionaries(st.sampled_from(['model.mode', 'x.y']), st.integers()),
)
def test_valid_suite_is_loaded_as_written(folder, attempt, runs, seeds, options):
    content = dict(
        runs=[dict(name=name, config='c.py', teacher=teacher) for name, teacher in runs.items()],
        seeds=seeds,
        measures=['IoU'],
        options=options,
    )
    suite = loaded(attempt, folder / 'valid.yaml', yaml.dump(content).encode())
    if suite is not None:
        read = {run.name: run.teacher for run in suite.runs}
        assert read == runs
        assert sorted({run.seed for run in suite.runs}) == sorted(seeds)
        assert all(run.options == options for run in suite.runs)
    else:  # an unknown teacher, or a circular dependency

        def ends(name):
            seen = set()
            while name is not None and name not in seen and name in runs:
                seen.add(name)
                name = runs[name]
            return name is None

        assert not all(map(ends, runs))
