import copy
import gzip
import json
import sqlite3

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mmkdml.experiments import RunSpec, Suite, SuiteStore, build_table, read_suite, write_report
from mmkdml.experiments.report.tables import FORMS, render
from mmkdml.experiments.suites.serialization import deserialize_result, serialize_result
from mmkdml.statistics.counts import seed_scores
from mmkdml.statistics.records import Measurement

CASES = pd.DataFrame(
    [(m, i, g, 1, 8, 1, 0) for m in ('teacher', 'student_1', 'ensemble') for i, g in ('1a', '2b')],
    columns=['member', 'id', 'group', 'label', 'tp', 'fp', 'fn'],
)
CURVES = pd.DataFrame(
    [(1, 'loss', 0.5), (2, 'loss', 0.25), (1, 'ensemble/foreground/IoU', 70.0)],
    columns=['epoch', 'key', 'value'],
)
METADATA = dict(
    config='c.py', config_text='lr = 1', command='python c.py', seconds=3.0, device='CPU',
    versions=dict(torch='2'), splits=dict(train=dict(images=3)), input_size=[8, 8],
    members=dict(teacher=dict(parameters=9, flops=8), student_1=dict(parameters=4, flops=3)),
    checkpoints=dict(best=1, last=2),
)  # fmt: skip
METRICS = {'ensemble/fidelity/KL': 0.1, 'ensemble/calibration/ECE': 2.0}
MEASURED = {name: Measurement(METRICS, CASES) for name in ('best', 'last')}
RESULT = json.loads(gzip.decompress(serialize_result(MEASURED, CURVES, METADATA)))
# Reports are slow.
FEWER = max(1, settings.default.max_examples // 4)
RUN = RunSpec('kdml_v3', 0, 'c.py')
SETTINGS = json.dumps(dict(model=dict(mode='kdml', style='v3')))


def paths(tree, parent=()):
    """Iterate over the paths of all values in nested dicts."""
    for key, value in tree.items():
        yield (*parent, key)
        if isinstance(value, dict):
            yield from paths(value, (*parent, key))


REMOVED = object()
VALUES = st.one_of(
    st.just(REMOVED),
    st.none(),
    st.integers(-1, 9),
    st.sampled_from(
        [10**30, float('nan'), float('inf'), True, '', 'x', '<b>', [], [1], [8, 'x'], {}]
    ),
    st.text(max_size=5),
    st.dictionaries(
        st.sampled_from(['best', 'parameters', 'flops', 'x']), st.integers(), max_size=2
    ),
)
BOXES = 'member,id,group,label,rank,score,hits,ignored,boxes'
HEADS = ['member,id,group,label,tp,fp,fn', 'member,id,group,truth,pred', BOXES]
HEADS += ['epoch,key,value', 'x', '']
CELLS = st.sampled_from(
    ['ensemble', 'teacher', '1', '0', '-1', '1e3', 'nan', '', 'x', '9' * 20, '99999999']
)
TABLES = st.builds(
    lambda head, rows: '\n'.join([head, *map(','.join, rows)]) + '\n',
    st.sampled_from(HEADS),
    st.lists(st.lists(CELLS, min_size=3, max_size=9), max_size=3),
)
CHANGES = st.lists(
    st.tuples(st.sampled_from([*paths(RESULT)]), VALUES)
    | st.tuples(
        st.sampled_from(
            [('measured', 'best', 'cases'), ('measured', 'last', 'cases'), ('curves',)]
        ),
        TABLES,
    ),
    max_size=3,
)


def changed(changes):
    result = copy.deepcopy(RESULT)
    for path, value in changes:
        holder = result
        for key in path[:-1]:
            holder = holder.get(key) if isinstance(holder, dict) else None
        if not isinstance(holder, dict):
            continue
        if value is REMOVED:
            holder.pop(path[-1], None)
        else:
            holder[path[-1]] = value
    return gzip.compress(json.dumps(result).encode(), 1)


@pytest.fixture(scope='module')
def suite(tmp_path_factory):
    folder = tmp_path_factory.mktemp('suite')
    return Suite('small', 'small.py', 'Small', ('IoU',), ('Table 4',), (RUN,), folder)


def stored(suite, content):
    """Create the suite's database with a finished run."""
    (suite.work_dir / 'suite.db').unlink(missing_ok=True)
    store = SuiteStore.in_folder(suite.work_dir)
    store.register(suite.runs, {RUN.name: SETTINGS})
    (run,) = store.states()
    store.claim(run, 'w', 0.0)
    store.finish(run, 'w', content, 3.0)
    return store


def reported(attempt, suite, store, *names):
    record = attempt(lambda: read_suite(suite, store), *names)
    if record is None:
        return
    attempt(lambda: seed_scores(record))
    table = attempt(lambda: build_table(record, 'best', 5))
    if table is not None:
        assert all(render(table, form) for form in FORMS)
    attempt(lambda: write_report(record, suite.work_dir / 'report.html', resamples=5))


@settings(max_examples=FEWER)
@given(content=CHANGES.map(changed) | st.binary(max_size=20))
@example(content=changed([(('facts',), {})]))
@example(content=changed([(('facts', 'members'), dict(teacher=dict(parameters=0, flops=1)))]))
@example(content=changed([(('facts', 'seconds'), 'long')]))
@example(content=changed([(('measured', 'best', 'metrics'), {'ensemble/fidelity/KL': 'x'})]))
@example(
    content=changed([(('measured', 'best', 'cases'), f'{HEADS[0]}\na,1,g,99999999999,1,1,1\n')])
)
@example(content=changed([(('measured', 'best', 'cases'), f'{HEADS[0]}\na,1,g,x,1,1,1\n')]))
@example(content=changed([(('measured', 'best', 'cases'), f'{BOXES}\na,1,g,1,1,nan,1,0,0\n')]))
@example(content=changed([(('measured', 'best', 'cases'), f'{BOXES}\na,1,g,1,1,1,9999,0,0\n')]))
@example(content=changed([(('curves',), 'epoch,key,value\nx,loss,1\n')]))
@example(content=changed([(('curves',), 'a,b\n1,2\n')]))
def test_results_with_any_content(suite, attempt, content):
    reported(attempt, suite, stored(suite, content), RUN.name)


COLUMNS = ('name', 'seed', 'position', 'teacher', 'settings', 'state', 'worker', 'beat', 'started',
           'seconds', 'error', 'result')  # fmt: skip
CONTENTS = st.one_of(
    st.none(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=5),
    st.binary(max_size=5),
    st.sampled_from(['done', 'failed', 'running', RUN.name, '{}', '[]', '{"model": 3}',
                     '{"model": {"mode": []}}', '{"model": {"mode": "kdml", "style": "v9"}}']),
)  # fmt: skip


@settings(max_examples=FEWER)
@given(values=st.dictionaries(st.sampled_from(COLUMNS), CONTENTS, min_size=1, max_size=3))
@example(values=dict(settings='{}'))
@example(values=dict(settings='x'))
@example(values=dict(settings='{"model": {"mode": "kdml"}}'))
@example(values=dict(result=3))
@example(values=dict(seconds='long'))
@example(values=dict(error=b'x'))
@example(values=dict(state='lost'))
def test_databases_with_any_content(suite, attempt, values):
    store = stored(suite, changed([]))
    with sqlite3.connect(suite.work_dir / 'suite.db') as database:
        try:
            database.execute(
                f'UPDATE runs SET {", ".join(f"{key} = ?" for key in values)}', [*values.values()]
            )
        except (sqlite3.IntegrityError, UnicodeError):
            return
    database.close()
    reported(attempt, suite, store)


@settings(max_examples=FEWER)
@given(content=st.binary(max_size=40), offset=st.integers(0, 9000))
def test_damaged_databases(suite, attempt, content, offset):
    store = stored(suite, changed([]))
    store.engine.dispose()
    path = suite.work_dir / 'suite.db'
    valid = path.read_bytes()
    path.write_bytes(valid[:offset] + content + valid[offset + len(content) :])
    opened = attempt(lambda: SuiteStore.in_folder(suite.work_dir), 'suite.db')
    if opened is not None:
        reported(attempt, suite, opened)
        opened.engine.dispose()


NUMBERS = st.floats(allow_nan=False, width=64)
FINITE = st.floats(allow_nan=False, allow_infinity=False, width=64)  # others are null in JSON
TEXTS = st.text(st.characters(exclude_characters='\r\0', exclude_categories=['Cs']), max_size=6)


@given(
    cases=st.lists(
        st.tuples(TEXTS, TEXTS, TEXTS, st.integers(0, 9), *[st.integers(0, 2**62)] * 3), max_size=4
    ),
    curves=st.lists(st.tuples(st.integers(0, 9), TEXTS, NUMBERS), max_size=4),
    metrics=st.dictionaries(TEXTS, FINITE, max_size=3),
    metadata=st.dictionaries(TEXTS, FINITE | TEXTS, max_size=3),
)
@example(cases=[], curves=[(0, '', 5.5048478363725224e16)], metrics={}, metadata={})
def test_round_trip_of_valid_results(cases, curves, metrics, metadata):
    table = pd.DataFrame(cases, columns=CASES.columns)
    curve = pd.DataFrame(curves, columns=CURVES.columns)
    measured, got, made = deserialize_result(
        serialize_result({'best': Measurement(metrics, table)}, curve, metadata)
    )
    assert (measured['best'].metrics, made) == (metrics, metadata)
    assert measured['best'].cases.to_numpy().tolist() == table.to_numpy().tolist()
    assert got.to_numpy().tolist() == curve.to_numpy().tolist()
